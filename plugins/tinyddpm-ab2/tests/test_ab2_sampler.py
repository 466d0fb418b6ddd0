from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tinyddpm_ab2 import ab2

from tinyddpm.backend import load_backend
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.errors import ConfigError
from tinyddpm.samplers import Noise, Pairs, Step, trailing_pairs
from tinyddpm.testing import check_sampler

HostArray = np.ndarray[Any, Any]

T = 1024
MEAN, STD = 0.7, 0.5
PROCESS = GaussianProcess(load_backend("numpy"), make_betas("linear", T))
X = np.random.default_rng(5).standard_normal((64, 2))


@pytest.mark.parametrize("steps", [None, 50], ids=["all steps", "50 steps"])
def test_keeps_the_contract(steps: int | None) -> None:
    check_sampler("ab2", steps=steps)


def exact_denoiser(x_t: HostArray, t: int) -> Prediction:
    """E[x_0 | x_t] for x_0 ~ N(MEAN, STD² I)."""
    alpha_bar = PROCESS.alpha_bar[t]
    gain = alpha_bar**0.5 * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)
    x_0 = MEAN + gain * (x_t - alpha_bar**0.5 * MEAN)
    return Prediction(x_0, (x_t - alpha_bar**0.5 * x_0) / (1 - alpha_bar) ** 0.5)


def no_noise(t: int) -> HostArray:
    raise AssertionError(f"noise asked for at t = {t}")


def ddim(process: GaussianProcess, denoiser: Denoiser, x: HostArray, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    """Every step as if it were the first: Euler's method."""
    for pair in pairs:
        (step,) = ab2(process, denoiser, x, [pair], noise)
        x = step.x
        yield step


def error(sampler: Any, steps: int) -> float:
    """The root mean square distance to the ODE's solution, which is closed for a Gaussian:

    x̄ − MEAN is proportional to √(STD² + s²), the standard deviation of x̄ at s.
    """
    *_, last = sampler(PROCESS, exact_denoiser, X, trailing_pairs(T, steps), no_noise)
    s2 = 1 / PROCESS.alpha_bar[-1] - 1
    exact = MEAN + (X / PROCESS.alpha_bar[-1] ** 0.5 - MEAN) * STD / (STD**2 + s2) ** 0.5
    return float(np.sqrt(np.mean((last.x - exact) ** 2)))


@pytest.mark.parametrize("steps", [32, 64, 128])
def test_is_second_order(steps: int) -> None:
    """Twice the steps leave a quarter of the error; Euler's method, DDIM, leaves a half."""
    assert error(ab2, steps) / error(ab2, 2 * steps) == pytest.approx(4, rel=0.25)
    assert error(ddim, steps) / error(ddim, 2 * steps) == pytest.approx(2, rel=0.25)


def test_is_closer_than_ddim_at_the_same_cost() -> None:
    assert error(ab2, 32) < error(ddim, 32) / 4


def test_one_step_is_ddim() -> None:
    """DDIM's step to the data is the predicted x_0 (eq. 12 with alpha_bar_prev = 1, sigma = 0)."""
    (step,) = ab2(PROCESS, exact_denoiser, X, [(T - 1, -1)], no_noise)
    np.testing.assert_allclose(step.x, exact_denoiser(X, T - 1).x_0, rtol=1e-10)
    assert np.array_equal(step.x_0, exact_denoiser(X, T - 1).x_0)


def test_asks_the_denoiser_once_per_step() -> None:
    asked = []

    def counting(x_t: HostArray, t: int) -> Prediction:
        asked.append(t)
        return exact_denoiser(x_t, t)

    pairs = trailing_pairs(T, 10)
    assert len(list(ab2(PROCESS, counting, X, pairs, no_noise))) == 10
    assert asked == [t for t, _ in pairs]


def test_a_chain_that_ends_without_signal_is_refused_in_one_line() -> None:
    process = GaussianProcess(load_backend("numpy"), zero_terminal_snr(make_betas("linear", 100)))
    with pytest.raises(ConfigError, match="the schedule ends with no signal: use ddim or ancestral"):
        next(ab2(process, lambda x_t, t: Prediction(x_t, x_t), X, [(99, -1)], no_noise))
