"""Heun's method on the probability flow, EDM's deterministic sampler (Karras et al. 2022, arXiv 2206.00364)."""

from __future__ import annotations

from collections.abc import Iterator

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.samplers.base import Noise, Pairs, Step, level


def heun(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    """Follow the probability-flow ODE by Heun's second-order method (EDM, Algorithm 1). Deterministic.

    In EDM's coordinates, x̄ = x / √alpha_bar and σ = √((1 − alpha_bar) / alpha_bar), the slope is the predicted noise:

        dx̄/dσ = (x̄ − D(x̄; σ)) / σ = eps

    Each step is Euler's, then done again with the mean of the slopes at its two ends. The last, to σ = 0, where the
    slope is not defined, is Euler's alone. N steps ask the denoiser 2N − 1 times, at times of the chain only.

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: see `Sampler`.
        pairs: see `Sampler`.
        noise: not asked for.
    """
    for t, t_prev in pairs:
        now, prev = level(process, t), level(process, t_prev)
        x_0, slope = denoiser(x, t)
        x_bar, h = x / now.alpha, prev.ratio - now.ratio
        x = prev.alpha * (x_bar + h * slope)
        if prev.sigma > 0:
            x = prev.alpha * (x_bar + h * (slope + denoiser(x, t_prev).eps) / 2)
        yield Step(t, x, x_0)
