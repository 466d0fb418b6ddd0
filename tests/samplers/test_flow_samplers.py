"""Euler's and Heun's method on rectified flow are the textbook's, and converge at their order on Gaussian data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from helpers.affine import GAUSSIAN
from helpers.flow import refused
from helpers.gaussians import Floats
from tinyddpm.backend import load_backend
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.samplers import ddim, euler, heun, make_sampler, trailing_pairs
from tinyddpm.samplers.runge_kutta import is_flow

X = np.random.default_rng(3).standard_normal((16, 2))
A = np.random.default_rng(4).standard_normal((2, 2))


def process(schedule: str, T: int) -> GaussianProcess:
    betas = make_betas(schedule.removesuffix(" without signal"), T)
    if schedule.endswith(" without signal"):
        betas = zero_terminal_snr(betas)
    return GaussianProcess(load_backend("numpy"), betas, dtype=np.float64)


def shares(chain: GaussianProcess, t: int) -> tuple[float, float]:
    """α + σ and τ at t."""
    alpha_bar = chain.alpha_bar[t] if t >= 0 else 1.0
    alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return alpha + sigma, sigma / (alpha + sigma)


def field(z: Floats, tau: float) -> Floats:
    """A velocity that bends."""
    return np.tanh(z @ A) - tau * z


def denoiser(chain: GaussianProcess) -> Denoiser:
    """What it says of x_0 and eps: z = (1 − τ) x_0 + τ eps, and the velocity is eps − x_0."""

    def denoise(x_t: Floats, t: int) -> Prediction:
        scale, tau = shares(chain, t)
        z = x_t / scale
        velocity = field(z, tau)
        return Prediction(z - tau * velocity, z + (1 - tau) * velocity)

    return denoise


def textbook(z: Floats, tau: list[float], second_order: bool) -> Floats:
    for now, after in pairwise(tau):
        slope = field(z, now)
        ahead = z + (after - now) * slope
        if second_order and after > 0:
            ahead = z + (after - now) * (slope + field(ahead, after)) / 2
        z = ahead
    return z


@pytest.mark.parametrize("schedule", ["flow", "flow without signal"])
@pytest.mark.parametrize("name", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 4, 8, 16])
def test_by_name_alone_they_are_the_textbooks(schedule: str, name: str, steps: int) -> None:
    """On the schedule `flow`, without options and at the default times: in z, at times even in τ.

    The last beta stops at 0.999, which leaves the first time √0.001 of the chain's step short of 1.
    """
    chain = process(schedule, 256)
    pairs = trailing_pairs(256, steps)
    tau = [shares(chain, t)[1] for t, _ in pairs] + [0.0]
    np.testing.assert_allclose(tau, np.linspace(1, 0, steps + 1), atol=0.032 / 256)
    *_, last = make_sampler(name)(chain, denoiser(chain), X, pairs, refused)
    expected = textbook(X / shares(chain, 255)[0], tau, name == "heun")
    np.testing.assert_allclose(last.x, expected, rtol=1e-9, atol=1e-12)


def edm(chain: GaussianProcess, x: Floats, pairs: list[tuple[int, int]]) -> Floats:
    """EDM's Algorithm 1 without churn, in x̄ = x / α and the ratio of noise to signal."""
    ask = denoiser(chain)
    for t, t_prev in pairs:
        a, a_prev = (float(chain.alpha_bar[s]) ** 0.5 if s >= 0 else 1.0 for s in (t, t_prev))
        s, s_prev = ((1 - a**2) ** 0.5 / a for a in (a, a_prev))
        d = ask(x, t).eps
        ahead = a_prev * (x / a + (s_prev - s) * d)
        if t_prev >= 0:
            ahead = a_prev * (x / a + (s_prev - s) * (d + ask(ahead, t_prev).eps) / 2)
        x = ahead
    return x


@pytest.mark.parametrize("schedule", ["linear", "cosine", "quadratic", "sigmoid-alpha", "laplace"])
@pytest.mark.parametrize("steps", [5, 40])
def test_on_other_schedules_heun_is_edms(schedule: str, steps: int) -> None:
    """By name alone; told to go over τ, it ends elsewhere."""
    chain = process(schedule, 40)
    pairs = trailing_pairs(40, steps)
    *_, by_itself = heun(chain, denoiser(chain), X, pairs, refused)
    *_, over_tau = heun(chain, denoiser(chain), X, pairs, refused, over="tau")
    np.testing.assert_allclose(by_itself.x, edm(chain, X, pairs), rtol=1e-9, atol=1e-12)
    assert np.abs(over_tau.x - by_itself.x).max() > 1e-4


@pytest.mark.parametrize("T", [4, 250, 4000])
def test_a_flow_is_known_by_its_times(T: int) -> None:
    assert is_flow(process("flow", T))
    assert is_flow(process("flow without signal", T))
    assert not any(is_flow(process(other, T)) for other in ("cosine", "sigmoid-alpha", "laplace"))


@pytest.mark.parametrize("schedule", ["flow", "flow without signal", "cosine"])
def test_eulers_steps_are_ddims(schedule: str) -> None:
    """All of them, on any chain: both go along the line through the predicted x_0 and eps."""
    chain = process(schedule, 100)
    pairs = trailing_pairs(100, 7)
    for ours, theirs in zip(
        euler(chain, denoiser(chain), X, pairs, refused), ddim(chain, denoiser(chain), X, pairs, refused), strict=True
    ):
        np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ours.x_0, theirs.x_0, rtol=1e-9, atol=1e-12)


def flowed(chain: GaussianProcess, x: Floats) -> Floats:
    """Where the flow of N(μ, Σ) leads x at T − 1: (1 − τ) μ + √((1 − τ)² Σ + τ² I) ξ for one ξ at all τ."""
    scale, tau = shares(chain, chain.T - 1)
    variances, axes = np.linalg.eigh(GAUSSIAN.covariance)
    xi = (x / scale - (1 - tau) * GAUSSIAN.mean) @ axes / np.sqrt((1 - tau) ** 2 * variances + tau**2)
    ends: Floats = GAUSSIAN.mean + xi * np.sqrt(variances) @ axes.T
    return ends


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2)])
def test_each_halving_of_the_steps_divides_the_error(sampler: Callable[..., Any], order: int) -> None:
    """From 16 to 256 steps, down to the data, beside the flow's own solution: by 2^order, to a tenth of the order."""
    chain = process("flow", 1024)
    exact, errors = flowed(chain, X), []
    for steps in (16, 32, 64, 128, 256):
        *_, last = sampler(chain, GAUSSIAN.denoiser(chain), X, trailing_pairs(1024, steps), refused)
        errors.append(np.sqrt(np.mean((last.x - exact) ** 2)))
    np.testing.assert_allclose(-np.diff(np.log2(errors)), order, rtol=0.1)
    assert errors[-1] < 0.01 / 2**order
