"""Denoisers: the functions of (x_t, t) that samplers call, made from a network or from anything else."""

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
"""A function that limits a predicted x_0, (N, ...), to ±1, the range of images; its first argument is the namespace."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A denoiser's estimates of the data and the noise in x_t, each of x_t's shape. Given x_t, one implies the other.

    It unpacks into x_0 and eps. `fraction` is the learned variance of the step, for samplers that use one; None if the
    network learns none.
    """

    x_0: Array
    eps: Array
    fraction: Fraction | None = None

    def __iter__(self) -> Iterator[Array]:
        return iter((self.x_0, self.eps))

    def rows(self, part: slice) -> Prediction:
        """Return the prediction for the samples in `part`."""
        fraction = None if self.fraction is None else self.fraction[part, ...]
        return Prediction(self.x_0[part, ...], self.eps[part, ...], fraction)


class Denoiser(Protocol):
    """A function of noisy samples and one time, 0-based."""

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...)."""
        ...


class Thresholded:
    """A denoiser that limits the x_0 of another to the range of images and computes eps from the result.

    It is the outermost wrapper: guidance leaves the range on purpose, so its result is limited, not its inputs.

    Args:
        process: relates x_t, x_0 and eps.
        denoiser: the denoiser whose predictions are limited.
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
    """Return the threshold called `name`, None for "none".

    Args:
        name: "none", "static" or "dynamic".
        percentile: see `dynamic_threshold`.

    Raises:
        ConfigError: no threshold has this name, or the percentile is outside (0, 1].
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

    Each sample is clipped to ±s and divided by s, where s is the given percentile of its own |x_0|, but at least 1. A
    saturated prediction is thus scaled down as a whole, where the static threshold would only cut off what is outside.

    Args:
        xp: the array namespace.
        x_0: (N, ...).
        percentile: the share of a sample's elements within ±s, in (0, 1].
    """
    n = x_0.shape[0]
    size = xp.sort(xp.reshape(xp.abs(x_0), (n, -1)), axis=1)
    s = clipped(xp, size[:, ceil(percentile * size.shape[1]) - 1], 1.0)
    return clipped(xp, x_0 / xp.reshape(s, (n, *(1,) * (x_0.ndim - 1))), -1.0, 1.0)
