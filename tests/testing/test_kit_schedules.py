"""The kit for schedules passes what keeps the contract, and names what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinyddpm.errors import ConfigError
from tinyddpm.testing import check_schedule

HostArray = np.ndarray[Any, Any]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_built_in_schedules_keep_the_contract(name: str) -> None:
    check_schedule(name)


def flat(T: int, *, total: float = 10.0) -> HostArray:
    return np.full(T, total / T)


def test_a_schedule_may_refuse_a_short_chain() -> None:
    def long_only(T: int) -> HostArray:
        if T < 1000:
            raise ConfigError(f"T = {T} is too short")
        return flat(T)

    check_schedule(long_only)


def refuses(T: int) -> HostArray:
    raise ConfigError(f"T = {T} is too long")


def one_too_many(T: int) -> HostArray:
    return flat(T + 1)


def single_precision(T: int) -> HostArray:
    return flat(T).astype(np.float32)


def starts_at_zero(T: int) -> HostArray:
    return np.linspace(0, 0.02, T)


def vanishes_in_rounding(T: int) -> HostArray:
    return np.concatenate([[1e-17], flat(T)[1:]])


def random(T: int) -> HostArray:
    return np.random.default_rng().uniform(0.01, 0.02, T)


KEPT = {T: flat(T) for T in (50, 100, 1000)}


def remembers(T: int) -> HostArray:
    return KEPT[T]


def positional(T: int, total: float = 10.0) -> HostArray:
    return flat(T, total=total)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (refuses, "refuses T = 1000: T = 1000 is too long"),
        (one_too_many, "at T = 50: 51 betas instead of 50"),
        (single_precision, "not float32"),
        (starts_at_zero, "beta at index 0 .* is 0.0"),
        (vanishes_in_rounding, "alpha_bar does not fall at index 0, where beta is 1e-17"),
        (random, "two calls give different betas"),
        (remembers, "two calls return the same memory"),
        (positional, "option total is not keyword-only"),
    ],
)
def test_a_broken_schedule_is_named(broken: Callable[..., HostArray], line: str) -> None:
    with pytest.raises(AssertionError, match=line):
        check_schedule(broken)


def test_the_end_is_checked_with_the_options() -> None:
    """Σ beta = 10 leaves sqrt(alpha_bar_T) = e^(−5) = 0.0067, under 0.01; Σ beta = 5 leaves e^(−2.5) = 0.082."""
    check_schedule(flat)
    with pytest.raises(AssertionError, match=r"sqrt\(alpha_bar_T\) is 0.08\d+, it must end below 0.01"):
        check_schedule(flat, total=5.0)
