"""The conformance kit for schedules."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np

from tinyddpm.diffusion.schedules import Betas, check_betas
from tinyddpm.errors import ConfigError
from tinyddpm.testing.plugin import resolve

LENGTHS = (50, 100, 1000)
"""Lengths T to check. A schedule may refuse short chains with ConfigError, but not `FULL_LENGTH`."""

FULL_LENGTH = 1000
"""T of DDPM, which every schedule must take."""

END = 0.01
"""Largest sqrt(alpha_bar_T) at T = 1000, the share of the image that is left: sampling starts from pure noise."""


def check_schedule(schedule: str | Callable[..., Betas], **options: Any) -> None:
    """Check that a schedule keeps its contract, with these options.

    At several T: betas are float64 of shape (T,), all in (0, 1), the same at every call, and alpha_bar falls strictly.
    At T = 1000 sqrt(alpha_bar_T) ends below 0.01.

    Args:
        schedule: its registered name, or the function `T, **options -> betas`.
        options: its options.

    Raises:
        AssertionError: the schedule breaks its contract; the line names T and the property.
    """
    function, what = resolve("schedules", schedule, arguments=1)
    for T in LENGTHS:
        try:
            betas = function(T, **options)
        except ConfigError as refusal:
            if T == FULL_LENGTH:
                raise AssertionError(f"{what} refuses T = {T}: {refusal}") from refusal
            continue
        _check_range(betas, T, f"{what} at T = {T}")
        _check_repeatable(betas, function(T, **options), f"{what} at T = {T}")


def _check_range(betas: Any, T: int, what: str) -> None:
    """Check type, shape and range of the betas, and that alpha_bar falls to its end."""
    try:
        check_betas(betas, what)
    except ConfigError as error:
        raise AssertionError(str(error)) from error
    assert len(betas) == T, f"{what}: {len(betas)} betas instead of {T}"
    alpha_bar = np.cumprod(1 - betas)
    flat = np.flatnonzero(np.diff(alpha_bar, prepend=1.0) >= 0)
    assert not flat.size, f"{what}: alpha_bar does not fall at index {flat[0]}, where beta is {betas[flat[0]]:.3g}"
    end = sqrt(alpha_bar[-1])
    assert T != FULL_LENGTH or end < END, f"{what}: sqrt(alpha_bar_T) is {end:.3g}, it must end below {END}"


def _check_repeatable(betas: Betas, again: Betas, what: str) -> None:
    """Check that two calls give equal betas, in arrays that share no memory."""
    assert np.array_equal(betas, again), f"{what}: two calls give different betas"
    assert not np.shares_memory(betas, again), f"{what}: two calls return the same memory, which a caller may write to"
