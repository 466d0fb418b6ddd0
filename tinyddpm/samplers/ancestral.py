"""Ancestral sampling, Algorithm 2 of DDPM."""

from __future__ import annotations

from collections.abc import Iterator

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess, Variance
from tinyddpm.errors import ConfigError
from tinyddpm.samplers.base import Noise, Pairs, Step


def ancestral(
    process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise, *, variance: Variance = "large"
) -> Iterator[Step]:
    """Draw each x_prev from p(x_prev | x_t), the posterior at the predicted x_0 (DDPM, Algorithm 2).

    On fewer steps than T the chain is respaced, its betas those between the times visited (IDDPM section 4).

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: see `Sampler`.
        pairs: see `Sampler`.
        noise: see `Sampler`.
        variance: "large" (beta) or "small" (beta-tilde).

    Raises:
        ConfigError: no such variance.
    """
    if variance not in ("large", "small"):
        raise ConfigError(f"variance is {variance!r}: give 'large' (beta) or 'small' (beta-tilde)")
    for t, t_prev in pairs:
        x_0 = denoiser(x, t).x_0
        mean, sigma2 = process.p_mean_variance(x, t, x_0, t_prev, variance)
        last = t_prev < 0
        x = mean if last else mean + sigma2**0.5 * noise(t)
        yield Step(t, x, x_0)
