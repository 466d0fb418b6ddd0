"""A denoiser: the function of (x_t, t) that samplers are given, made of a network or of anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Protocol, TypeAlias

from tinyddpm.backend import Array, clipped
from tinyddpm.diffusion.process import Fraction, GaussianProcess
from tinyddpm.errors import ConfigError, unknown

Threshold: TypeAlias = Callable[[Any, Array], Array]
"""Brings a predicted x_0, (N, ...), into ±1, the range of images; its first argument is the array namespace."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a denoiser says of x_t: the data and the noise it is made of, each of x_t's shape. One implies the other.

    It unpacks into these two. `fraction` is the learned variance of the step, for samplers that have a use for it;
    None where nothing was learned.
    """

    x_0: Array
    eps: Array
    fraction: Fraction | None = None

    def __iter__(self) -> Iterator[Array]:
        return iter((self.x_0, self.eps))

    def rows(self, part: slice) -> Prediction:
        """Return the prediction for a part of the batch."""
        fraction = None if self.fraction is None else self.fraction[part, ...]
        return Prediction(self.x_0[part, ...], self.eps[part, ...], fraction)


class Denoiser(Protocol):
    """A function of noisy samples and one time, 0-based."""

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...)."""
        ...


class Thresholded:
    """A denoiser whose predicted x_0 is brought into the range of images, and eps follows it.

    It goes around all that is done to predictions: guidance leaves the range on purpose, and is to be asked before.

    Args:
        process: relates x_t, x_0 and eps.
        denoiser: what is predicted.
        threshold: applied to every predicted x_0.
    """

    def __init__(self, process: GaussianProcess, denoiser: Denoiser, threshold: Threshold) -> None:
        self.process, self.denoiser, self.threshold = process, denoiser, threshold

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...)."""
        prediction = self.denoiser(x_t, t)
        x_0 = self.threshold(self.process.backend.xp, prediction.x_0)
        return Prediction(x_0, self.process.predict_eps(x_t, t, x_0), prediction.fraction)


def make_threshold(name: str, percentile: float) -> Threshold | None:
    """Return the threshold called `name`: "none", "static" or "dynamic".

    Args:
        name: which.
        percentile: see `dynamic_threshold`.

    Raises:
        ConfigError: there is none of this name, or the percentile is outside (0, 1].
    """
    if not 0 < percentile <= 1:
        raise ConfigError(f"percentile is {percentile}: give a share of the pixels, above 0 and up to 1")
    known = {"none": None, "static": static_threshold, "dynamic": partial(dynamic_threshold, percentile=percentile)}
    if name not in known:
        raise ConfigError(unknown("threshold", name, known))
    return known[name]


def static_threshold(xp: Any, x_0: Array) -> Array:
    """Return x_0 clipped to ±1, as DDPM does."""
    return clipped(xp, x_0, -1.0, 1.0)


def dynamic_threshold(xp: Any, x_0: Array, percentile: float) -> Array:
    """Return x_0 within ±1 by dynamic thresholding (Imagen, Saharia et al. 2022, arXiv 2205.11487, section 2.3).

    Each sample is clipped to ±s and divided by s, where s is the given percentile of its own |x_0|, but 1 at least: a
    prediction that saturates is pulled inwards as a whole, where clipping would leave all that is outside at ±1.

    Args:
        xp: the array namespace.
        x_0: (N, ...).
        percentile: the share of a sample's elements that are to be within ±s, in (0, 1].
    """
    n = x_0.shape[0]
    size = xp.sort(xp.reshape(xp.abs(x_0), (n, -1)), axis=1)
    s = clipped(xp, size[:, ceil(percentile * size.shape[1]) - 1], 1.0)
    return clipped(xp, x_0 / xp.reshape(s, (n, *(1,) * (x_0.ndim - 1))), -1.0, 1.0)
