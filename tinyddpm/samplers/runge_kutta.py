"""Euler's and Heun's method on the probability flow, in EDM's time or in rectified flow's.

Scaled so that its coefficients are linear in a suitable time, x_t = α x_0 + σ eps moves on a straight line. Two such
coordinates are in use (Karras et al. 2022, arXiv 2206.00364, section 3; Liu et al. 2022, arXiv 2209.03003, eq. 1):

    sigma:  x / α       = x_0 + s eps,             s = σ / α,         slope eps
    tau:    x / (α + σ) = (1 − τ) x_0 + τ eps,     τ = σ / (α + σ),   slope eps − x_0

In both, the flow's slope is that of the line through the predicted x_0 and eps. Euler's step follows this line, so it
is the same step in both; Heun's, which takes the mean of two slopes, is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.errors import ConfigError
from tinyddpm.samplers.base import Level, Noise, Pairs, Step, level


class _Coordinate(NamedTuple):
    """A coordinate of the flow: z = x / scale, its time, and its slope dz/dtime."""

    scale: Callable[[Level], float]
    time: Callable[[Level], float]
    slope: Callable[[Prediction], Array]


_COORDINATES = {
    "sigma": _Coordinate(lambda at: at.alpha, lambda at: at.ratio, lambda predicted: predicted.eps),
    "tau": _Coordinate(
        lambda at: at.alpha + at.sigma, lambda at: at.tau, lambda predicted: predicted.eps - predicted.x_0
    ),
}


def euler(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    """Follow the probability-flow ODE by Euler's method in rectified flow's τ. Deterministic, first order.

        z_prev = z + (τ_prev − τ) (eps − x_0),   z = x / (α + σ),   τ = σ / (α + σ)

    DDIM with η = 0 takes the same step.

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: see `Sampler`.
        pairs: see `Sampler`.
        noise: unused.
    """
    return _followed(process, denoiser, x, pairs, _COORDINATES["tau"], corrected=False)


def heun(
    process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise, *, over: str = "auto"
) -> Iterator[Step]:
    """Follow the probability-flow ODE by Heun's second-order method (EDM eq. 1, Algorithm 1). Deterministic.

    Each step is Euler's, then repeated with the mean of the slopes at its two ends. The last step, to the data, where
    no denoiser is defined, is Euler's alone. N steps call the denoiser 2N − 1 times, at times of the chain only.

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: see `Sampler`.
        pairs: see `Sampler`.
        noise: unused.
        over: "sigma", EDM's noise-to-signal ratio, in which the slope is eps; "tau", rectified flow's time, in which it
            is eps − x_0; "auto" is tau on a chain whose times are evenly spaced in it, as those of the schedule `flow`,
            and sigma on any other.

    Raises:
        ConfigError: there is no such coordinate; from the first step in sigma, the chain ends without signal.
    """
    if over not in ("auto", *_COORDINATES):
        raise ConfigError(f"over is {over!r}: give 'sigma' (EDM's time), 'tau' (rectified flow's) or 'auto'")
    if over == "auto":
        over = "tau" if is_flow(process) else "sigma"
    return _followed(process, denoiser, x, pairs, _COORDINATES[over], corrected=True)


def is_flow(process: GaussianProcess) -> bool:
    """Return whether the chain's times are even in τ to a twentieth of a step, whether or not it ends with signal."""
    tau = np.asarray([level(process, t).tau for t in range(process.T)])
    return bool(np.all(np.abs(tau * process.T - np.arange(1, process.T + 1)) < 0.05))


def _followed(
    process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, over: _Coordinate, *, corrected: bool
) -> Iterator[Step]:
    for t, t_prev in pairs:
        now, prev = level(process, t), level(process, t_prev)
        prediction = denoiser(x, t)
        slope = over.slope(prediction)
        z, h = x / over.scale(now), over.time(prev) - over.time(now)
        x = over.scale(prev) * (z + h * slope)
        if corrected and prev.sigma > 0:
            x = over.scale(prev) * (z + h * (slope + over.slope(denoiser(x, t_prev))) / 2)
        yield Step(t, x, prediction.x_0)
