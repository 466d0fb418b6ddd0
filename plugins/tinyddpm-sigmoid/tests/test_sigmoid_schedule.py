from __future__ import annotations

import math

import numpy as np
import pytest
from tinyddpm_sigmoid import sigmoid

from tinyddpm.errors import ConfigError
from tinyddpm.testing import check_schedule


@pytest.mark.parametrize(
    "options", [{}, {"start": 0.0, "tau": 1.1}, {"tau": 0.5}], ids=["default", "late start", "steep"]
)
def test_keeps_the_contract(options: dict[str, float]) -> None:
    check_schedule("sigmoid", **options)


@pytest.mark.parametrize(("start", "end", "tau"), [(-3, 3, 1.0), (0, 3, 0.7), (-3, 2, 1.1)])
def test_alpha_bar_is_the_papers_gamma(start: float, end: float, tau: float) -> None:
    """At every t but the clipped last one, against the paper's pseudo-code in plain Python."""

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    def gamma(t: float) -> float:
        v_start, v_end = sigma(start / tau), sigma(end / tau)
        return (-sigma((t * (end - start) + start) / tau) + v_end) / (v_end - v_start)

    T = 40
    alpha_bar = np.cumprod(1 - sigmoid(T, start=start, end=end, tau=tau))
    np.testing.assert_allclose(alpha_bar[:-1], [gamma(t / T) for t in range(1, T)], rtol=1e-12)


def test_symmetric_ends_pass_the_middle_at_one_half() -> None:
    """σ(−x) = 1 − σ(x), so alpha_bar(T/2) = 1/2 and alpha_bar(t) + alpha_bar(T − t) = 1."""
    alpha_bar = np.cumprod(1 - sigmoid(100))
    assert alpha_bar[49] == pytest.approx(0.5, rel=1e-12)
    np.testing.assert_allclose(alpha_bar[:-1] + alpha_bar[-2::-1], 1, rtol=1e-12)


def test_only_the_last_beta_is_clipped() -> None:
    betas = sigmoid(1000, max_beta=0.99)
    assert betas[-1] == 0.99
    assert np.all(betas[:-1] < 0.99)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"start": 3.0}, "start = 3.0"), ({"tau": 0.0}, "tau is 0.0"), ({"max_beta": 1.0}, "max_beta is 1.0")],
)
def test_options_out_of_range_are_refused(options: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        sigmoid(100, **options)
