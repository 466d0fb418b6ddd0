"""The conformance kit: a function for each kind of plugin, which checks in one line that it keeps its contract.

    check_schedule("sigmoid")
    check_parametrisation("edm", sigma_data=0.3)
    check_objective("hybrid", detached=True)
    check_time("history")
    check_network("dit", width=16, heads=2, exempt=("*/k/b",))
    check_condition("caption", known)
    check_sampler("ab2")
    check_guidance("cfg")
    check_callback("early-stop", patience=3)
    check_transform("shift", most=1)
    check_feature("pixels")
    check_metric("frechet")
    check_rate("cosine", last=0.1)

Each function takes the plugin's registered name or the plugin itself. It raises AssertionError, with one line that
names the property, if the plugin breaks its contract.
"""

from tinyddpm.errors import ConfigError
from tinyddpm.testing.backends import check_backend
from tinyddpm.testing.callbacks import check_callback
from tinyddpm.testing.commands import check_command
from tinyddpm.testing.conditions import check_condition
from tinyddpm.testing.datasets import check_dataset
from tinyddpm.testing.gradients import check_projection, direction, read_only
from tinyddpm.testing.guidance import check_guidance
from tinyddpm.testing.metrics import check_feature, check_metric
from tinyddpm.testing.networks import check_network, random_weights
from tinyddpm.testing.objectives import check_objective
from tinyddpm.testing.parametrisations import check_parametrisation
from tinyddpm.testing.presets import check_preset
from tinyddpm.testing.rates import check_rate
from tinyddpm.testing.samplers import check_sampler
from tinyddpm.testing.schedules import check_schedule
from tinyddpm.testing.spacings import check_spacing
from tinyddpm.testing.times import check_time
from tinyddpm.testing.transforms import check_transform
from tinyddpm.testing.weightings import check_weighting

__all__ = [
    "check_backend",
    "check_callback",
    "check_command",
    "check_condition",
    "check_dataset",
    "check_feature",
    "check_guidance",
    "check_metric",
    "check_network",
    "check_objective",
    "check_parametrisation",
    "check_preset",
    "check_projection",
    "check_rate",
    "check_sampler",
    "check_schedule",
    "check_spacing",
    "check_time",
    "check_transform",
    "check_weighting",
    "direction",
    "random_weights",
    "read_only",
]

if not __debug__:
    raise ConfigError(
        "Python leaves assertions out, and every plugin would pass: start it without -O or PYTHONOPTIMIZE"
    )
