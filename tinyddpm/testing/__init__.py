"""The conformance kit: what a plugin's author calls, in one line, to know that the plugin keeps its contract.

    check_schedule("sigmoid")
    check_parametrisation("edm", sigma_data=0.3)
    check_objective("hybrid", detached=True)
    check_law("history")
    check_network("dit", width=16, heads=2, exempt=("*/k/b",))
    check_sampler("ab2")

Each takes the registered name or the object itself, and raises AssertionError with one line that names what fails.
"""

from tinyddpm.testing.gradients import check_projection, direction, read_only
from tinyddpm.testing.networks import check_network, random_weights
from tinyddpm.testing.objectives import check_objective
from tinyddpm.testing.parametrisations import check_parametrisation
from tinyddpm.testing.samplers import check_sampler
from tinyddpm.testing.schedules import check_schedule
from tinyddpm.testing.times import check_law

__all__ = [
    "check_law",
    "check_network",
    "check_objective",
    "check_parametrisation",
    "check_projection",
    "check_sampler",
    "check_schedule",
    "direction",
    "random_weights",
    "read_only",
]
