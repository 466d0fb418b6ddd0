"""Ancestral sampling, Algorithm 2 of DDPM."""

from __future__ import annotations

from collections.abc import Iterator

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.diffusion.process import Fraction, GaussianProcess, Variance
from tinyddpm.errors import ConfigError
from tinyddpm.samplers.base import Noise, Pairs, Step


def ancestral(
    process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise, *, variance: str = "auto"
) -> Iterator[Step]:
    """Draw each x_prev from p(x_prev | x_t), the posterior at the predicted x_0 (DDPM, Algorithm 2).

    With fewer steps than T the chain is respaced: its betas are those between the times visited, and a learned variance
    lies between them and their beta-tilde (IDDPM section 4).

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: see `Sampler`.
        pairs: see `Sampler`.
        noise: see `Sampler`.
        variance: "large" (beta), "small" (beta-tilde) or "learned"; "auto" is learned if the denoiser gives a learned
            variance, large otherwise.

    Raises:
        ConfigError: there is no such variance; from the first step on, "learned" without a learned variance.
    """
    if variance not in ("auto", "learned", "large", "small"):
        raise ConfigError(f"variance is {variance!r}: give 'large' (beta), 'small' (beta-tilde), 'learned' or 'auto'")
    return _ancestral(process, denoiser, x, pairs, noise, variance)


def _ancestral(
    process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise, variance: str
) -> Iterator[Step]:
    for t, t_prev in pairs:
        prediction = denoiser(x, t)
        x_0 = prediction.x_0
        mean, sigma2 = process.p_mean_variance(x, t, x_0, t_prev, _variance(variance, prediction))
        last = t_prev < 0
        x = mean if last else mean + sigma2**0.5 * noise(t)
        yield Step(t, x, x_0)


def _variance(variance: str, prediction: Prediction) -> Variance | Fraction:
    if variance == "large" or (variance == "auto" and prediction.fraction is None):
        return "large"
    if variance == "small":
        return "small"
    if prediction.fraction is None:
        raise ConfigError("variance is 'learned', but this model has learned none: give 'large' or 'small'")
    return prediction.fraction
