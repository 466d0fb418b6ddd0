"""The probability flow of smooth data on a fine chain, on which the order of a solver can be measured."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from helpers.gaussians import Floats, Mixture
from tinyddpm.backend import load_backend
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.samplers import Noise

T = 4097
RATIOS = np.geomspace(0.02, 20, T)
"""Ratio of noise to signal, sigma / alpha, (T,): evenly spaced in λ, as is every k-th time."""


def _process() -> GaussianProcess:
    alpha_bar = 1 / (1 + RATIOS**2)
    betas = 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    return GaussianProcess(load_backend("numpy"), betas, dtype=np.float64)


PROCESS = _process()

NEAR = Mixture(
    weights=np.array([0.6, 0.4]),
    means=np.array([[-0.6, 0.2], [0.7, -0.1]]),
    covariances=np.array([[[0.25, 0.05], [0.05, 0.16]], [[0.2, -0.04], [-0.04, 0.3]]]),
)
"""Two overlapping modes: the flow is curved but smooth."""


def uneven_pairs(steps: int) -> list[tuple[int, int]]:
    """Return `steps` pairs from T − 1 to 0, of lengths in λ that alternate in the ratio 3 to 1, and one to the data."""
    part = (T - 1) // (2 * steps)
    gaps = [3 * part, part] * (steps // 2)
    return list(pairwise([*(T - 1 - np.cumsum([0, *gaps])).tolist(), -1]))


def units(pairs: list[tuple[int, int]]) -> tuple[Floats, Noise]:
    """Return a batch x_T and its noise: a unit vector in x_T, one in the noise of each step, and zero.

    From them follow the coefficients of a result that is affine in x_T and all noise, with separate axes.
    """
    times = [t for t, _ in pairs]
    x = np.zeros((len(pairs) + 2, 2))
    x[0] = 1

    def noise(t: int) -> Floats:
        z = np.zeros_like(x)
        z[1 + times.index(t)] = 1
        return z

    return x, noise


def sampled(sampler: Any, mixture: Mixture, x: Floats, pairs: Any, noise: Noise | None = None, **options: Any) -> Any:
    """Return all steps of a sampler on `PROCESS` with the exact denoiser; without `noise`, drawing any is an error."""
    return list(sampler(PROCESS, mixture.denoiser(PROCESS), x, pairs, noise or refused, **options))


def refused(t: int) -> Floats:
    raise AssertionError(f"noise asked for at t = {t}")


def flow(mixture: Mixture, x: Floats) -> Floats:
    """Return x at time 0 from x at T − 1: the classical Runge-Kutta method on dx̄/d log s = s eps, x̄ = x / √alpha_bar.

    A step spans two intervals of the chain, with its midpoint between them: 2048 steps of a fourth-order method.
    """
    denoise = mixture.denoiser(PROCESS)

    def slope(x_bar: Floats, t: int) -> Floats:
        return RATIOS[t] * denoise(np.sqrt(PROCESS.alpha_bar[t]) * x_bar, t).eps

    x_bar = x / np.sqrt(PROCESS.alpha_bar[-1])
    h = np.log(RATIOS[0] / RATIOS[2])
    for t in range(T - 1, 0, -2):
        k_1 = slope(x_bar, t)
        k_2 = slope(x_bar + h / 2 * k_1, t - 1)
        k_3 = slope(x_bar + h / 2 * k_2, t - 1)
        k_4 = slope(x_bar + h * k_3, t - 2)
        x_bar = x_bar + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
    return np.sqrt(PROCESS.alpha_bar[0]) * x_bar
