"""Conditions: what samples are conditioned on, from the data set's columns to the inputs of a network."""

from tinyddpm.conditions.base import (
    OF_CLASSES,
    Asked,
    Condition,
    Conditioned,
    Given,
    Known,
    Unconditional,
    Wish,
    check_fit,
    count,
    in_turn,
    learned_options,
    make_condition,
    some,
)
from tinyddpm.conditions.transformed import TRANSFORMS, Transformed

__all__ = [
    "OF_CLASSES",
    "TRANSFORMS",
    "Asked",
    "Condition",
    "Conditioned",
    "Given",
    "Known",
    "Transformed",
    "Unconditional",
    "Wish",
    "check_fit",
    "count",
    "in_turn",
    "learned_options",
    "make_condition",
    "some",
]
