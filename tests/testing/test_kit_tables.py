"""The kits for weightings, spacings and rates pass what keeps the contract, and name what does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinyddpm import registry
from tinyddpm.testing import check_rate, check_spacing, check_weighting

HostArray = np.ndarray[Any, Any]


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("weightings")])
def test_the_built_in_weightings_keep_the_contract(name: str) -> None:
    check_weighting(name)


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("spacings")])
def test_the_built_in_spacings_keep_the_contract(name: str) -> None:
    check_spacing(name)


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("rates")])
def test_the_built_in_rates_keep_the_contract(name: str) -> None:
    check_rate(name)


def test_options_are_passed_on() -> None:
    check_rate("inverse-sqrt", after=3)
    check_weighting("p2", k=2.0, gamma=0.5)
    check_spacing("karras", rho=1.0)


@pytest.mark.slow
def test_a_kit_without_assertions_is_refused() -> None:
    """Under -O Python leaves them out, and whatever is checked would pass."""
    done = subprocess.run([sys.executable, "-O", "-c", "import tinyddpm.testing"], capture_output=True, text=True)
    assert done.stderr.endswith("every plugin would pass: start it without -O or PYTHONOPTIMIZE\n")


def even(alpha_bar: HostArray, predict: str) -> HostArray:
    return np.ones_like(alpha_bar)


def writes_the_table(alpha_bar: HostArray, predict: str) -> HostArray:
    alpha_bar *= 1.0
    return even(alpha_bar, predict)


def random(alpha_bar: HostArray, predict: str) -> HostArray:
    return np.random.default_rng().uniform(1, 2, alpha_bar.shape)


def one_zero(alpha_bar: HostArray, predict: str) -> HostArray:
    return np.append(even(alpha_bar, predict)[1:], 0.0)


def positional(alpha_bar: HostArray, predict: str, power: float = 1.0) -> HostArray:
    return even(alpha_bar, predict)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (writes_the_table, "fails with a read-only alpha_bar"),
        (random, "gives other weights at the second call"),
        (one_zero, r"on a linear chain of 1000, predicting edm, weighs t = 999 by 0: give a number above 0"),
        (lambda alpha_bar, predict: 1.0, "gives float of shape"),
        (
            lambda alpha_bar, predict: np.ones(3),
            r"gives float64 of shape \(3,\), it must be .* \(1000,\)",
        ),
        (lambda alpha_bar, predict: np.ones_like(alpha_bar, np.float32), "gives float32"),
        (lambda alpha_bar, predict: alpha_bar * np.nan, "weighs t = 0 by nan"),
        (positional, "option power is not keyword-only"),
        (lambda alpha_bar: alpha_bar, "takes 1 arguments, its group has 2"),
    ],
)
def test_a_broken_weighting_is_named(broken: Callable[..., Any], line: str) -> None:
    check_weighting(even)
    with pytest.raises(AssertionError, match=line):
        check_weighting(broken)


def falling(alpha_bar: HostArray, steps: int) -> HostArray:
    return len(alpha_bar) * np.linspace(1, 0, steps + 1)[:-1] - 1


def writes_the_other_table(alpha_bar: HostArray, steps: int) -> HostArray:
    alpha_bar *= 1.0
    return falling(alpha_bar, steps)


def shaken(alpha_bar: HostArray, steps: int) -> HostArray:
    return falling(alpha_bar, steps) + np.random.default_rng().uniform(0, 1e-3)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (writes_the_other_table, "fails with a read-only alpha_bar"),
        (shaken, "gives other times at the second call"),
        (lambda alpha_bar, steps: falling(alpha_bar, steps + 1), r"for 1 of 1000 steps gives an array of shape \(2,\)"),
        (lambda alpha_bar, steps: falling(alpha_bar, steps) - 1, "starts at 998: start at T - 1 = 999"),
        (lambda alpha_bar, steps: np.linspace(999, -1, steps), "for 2 of 1000 steps ends at -1: stay above -1"),
        (lambda alpha_bar, steps: np.append(999, falling(alpha_bar, steps)[:0:-1]), "rises"),
        (lambda alpha_bar, steps: falling(alpha_bar, steps) * np.nan, "not finite"),
    ],
)
def test_a_broken_spacing_is_named(broken: Callable[..., Any], line: str) -> None:
    check_spacing(falling)
    with pytest.raises(AssertionError, match=line):
        check_spacing(broken)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (lambda steps: np.ones(steps + 1), r"for 1 steps gives an array of shape \(2,\), not \(1,\)"),
        (lambda steps: np.ones(steps, np.float32), "for 1 steps gives float32, not float64"),
        (lambda steps: np.linspace(1, -1, steps), "for 2 steps gives a share below 0"),
        (lambda steps: np.linspace(0, 1, steps), "for 1 steps starts at 0"),
        (lambda steps: np.ones(steps) * np.inf, "not finite"),
        (lambda steps: np.random.default_rng().uniform(1, 2, steps), "gives other shares at the second call"),
        (lambda steps, total: np.ones(steps), "option total is not keyword-only"),
    ],
)
def test_a_broken_rate_is_named(broken: Callable[..., Any], line: str) -> None:
    with pytest.raises(AssertionError, match=line):
        check_rate(broken)
