from __future__ import annotations

import math

import numpy as np
import pytest
from tinyddpm_sigmoid import sigmoid

from tinyddpm.errors import ConfigError
from tinyddpm.testing import check_schedule


@pytest.mark.parametrize("options", [{}, {"beta_end": 0.03}, {"steepness": 3.0}], ids=["default", "higher", "flatter"])
def test_keeps_the_contract(options: dict[str, float]) -> None:
    check_schedule("sigmoid", **options)


@pytest.mark.parametrize(("T", "start", "end", "k"), [(1000, 1e-4, 0.02, 6.0), (200, 1e-3, 0.05, 2.0)])
def test_betas_are_the_formulas(T: int, start: float, end: float, k: float) -> None:
    """Step by step in plain Python."""
    expected = [(start + (end - start) / (1 + math.exp(-k * (2 * t / (T - 1) - 1)))) * 1000 / T for t in range(T)]
    np.testing.assert_allclose(sigmoid(T, beta_start=start, beta_end=end, steepness=k), expected, rtol=1e-12)


def test_the_two_halves_mirror_each_other() -> None:
    """σ(−x) = 1 − σ(x), so beta_t + beta_{T − 1 − t} is the sum of the limits."""
    betas = sigmoid(1000)
    np.testing.assert_allclose(betas + betas[::-1], 0.0201, rtol=1e-12)


@pytest.mark.parametrize(
    ("T", "options", "named"),
    [
        (100, {"beta_start": 0.03}, "beta_start is 0.03"),
        (100, {"beta_end": 1.0}, "beta_end 1.0"),
        (100, {"steepness": 0.0}, "steepness is 0.0"),
        (20, {}, "use T > 20"),
    ],
)
def test_options_out_of_range_are_refused(T: int, options: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        sigmoid(T, **options)
