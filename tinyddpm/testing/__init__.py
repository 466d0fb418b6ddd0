"""The conformance kit: what a plugin's author calls, in one line, to know that the plugin keeps its contract.

    check_schedule("sigmoid")
    check_network("dit", width=16, heads=2, exempt=("*/k/b",))
    check_condition("caption", known)
    check_sampler("ab2")
    check_guidance("cfg")

Each takes the registered name or the object itself, and raises AssertionError with one line that names what fails.
"""

from tinyddpm.testing.conditions import check_condition
from tinyddpm.testing.gradients import check_projection, direction, read_only
from tinyddpm.testing.guidance import check_guidance
from tinyddpm.testing.networks import check_network, random_weights
from tinyddpm.testing.samplers import check_sampler
from tinyddpm.testing.schedules import check_schedule

__all__ = [
    "check_condition",
    "check_guidance",
    "check_network",
    "check_projection",
    "check_sampler",
    "check_schedule",
    "direction",
    "random_weights",
    "read_only",
]
