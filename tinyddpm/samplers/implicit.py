"""Denoising diffusion implicit models, and their inversion (DDIM: Song, Meng, Ermon 2020, arXiv 2010.02502)."""

from __future__ import annotations

from collections.abc import Iterator

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.errors import ConfigError
from tinyddpm.samplers.base import Noise, Pairs, Step, level


def ddim(
    process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise, *, eta: float = 0.0
) -> Iterator[Step]:
    """Step to each x_prev through the predicted x_0 and eps, with any share of fresh noise (eqs. 7, 12 and 16).

        x_prev = √alpha_bar_prev x_0 + √(1 − alpha_bar_prev − σ²) eps + σ z
        σ = η √((1 − alpha_bar_prev) / (1 − alpha_bar_t)) √(1 − alpha_bar_t / alpha_bar_prev)

    Without noise it is Euler's method on the probability-flow ODE (eq. 13), first order. With η = 1, σ² is beta-tilde,
    and this is ancestral sampling with the small variance.

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: see `Sampler`.
        pairs: see `Sampler`.
        noise: see `Sampler`; unused if η is 0.
        eta: η, from 0, deterministic, to 1.

    Raises:
        ConfigError: eta is outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ConfigError(f"eta is {eta}: give a number from 0 (deterministic) to 1 (as noisy as ancestral sampling)")
    return _ddim(process, denoiser, x, pairs, noise, eta)


def _ddim(
    process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise, eta: float
) -> Iterator[Step]:
    for t, t_prev in pairs:
        now, prev = level(process, t), level(process, t_prev)
        x_0, eps = denoiser(x, t)
        sigma = eta * prev.sigma / now.sigma * (1 - (now.alpha / prev.alpha) ** 2) ** 0.5
        x = prev.alpha * x_0 + (prev.sigma**2 - sigma**2) ** 0.5 * eps
        if sigma > 0:
            x = x + sigma * noise(t)
        yield Step(t, x, x_0)


def ddim_encode(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs) -> Iterator[Step]:
    """Encode data as the noise from which DDIM with η = 0 draws them: its ODE from data to noise, over the same times.

        x_t = √alpha_bar_t x_0 + √(1 − alpha_bar_t) eps,   x_0 and eps as predicted at t_prev  (eq. 13 and section 4.3)

    This too is Euler's method: encoding and decoding give the data back up to an error of first order in the steps. A
    denoiser is not defined at t = −1; there it is evaluated at t = 0, its lowest level of noise.

    Args:
        process: the chain that the denoiser was made for.
        denoiser: predicts x_0 and eps.
        x: (N, ...) data.
        pairs: the steps from noise to data, as for a sampler; they are taken in reverse.

    Yields:
        A step from t_prev to t for each pair; the last one's `x` is at T − 1.
    """
    for t, t_prev in reversed(pairs):
        now, prev, asked = level(process, t), level(process, t_prev), max(t_prev, 0)
        x_bar = x / prev.alpha
        x_0, eps = denoiser(level(process, asked).alpha * x_bar, asked)
        x = now.alpha * x_bar + (now.sigma - now.alpha * prev.ratio) * eps
        yield Step(t_prev, x, x_0)
