"""A denoiser: the function of (x_t, t) that samplers are given, made of a network or of anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Protocol, TypeAlias

from tinyddpm.backend import Array
from tinyddpm.backend.workers import Workers, parts
from tinyddpm.diffusion.parametrisation import Predict, halves, implied
from tinyddpm.diffusion.process import Fraction, GaussianProcess
from tinyddpm.errors import ConfigError, unknown
from tinyddpm.nn import Condition, Network, Weights
from tinyddpm.ops import Operations

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


class Denoiser(Protocol):
    """A function of noisy samples and one time, 0-based."""

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...)."""
        ...


class NetworkDenoiser:
    """A network as a denoiser.

    Args:
        network: predicts what `predict` says.
        ops: operations without training: nothing is kept.
        w: parameters by path.
        process: relates x_t, x_0 and eps.
        cond: what the samples are conditioned on.
        threshold: applied to every predicted x_0, and eps follows it; None leaves both as they are.
        workers: the threads that share each batch.
        predict: eps, x_0 or v.
        learned_variance: whether half of the network's channels are the variance.
    """

    def __init__(
        self,
        network: Network,
        ops: Operations,
        w: Weights,
        process: GaussianProcess,
        cond: Condition,
        threshold: Threshold | None,
        workers: Workers,
        predict: Predict = "eps",
        learned_variance: bool = False,
    ) -> None:
        self.network, self.ops, self.w = network, ops, w
        self.process, self.cond, self.threshold, self.workers = process, cond, threshold, workers
        self.predict, self.learned_variance = predict, learned_variance
        self._forward = ops.backend.captured(self._network_output)

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...)."""
        xp = self.ops.xp
        n = x_t.shape[0]
        steps = self.ops.backend.asarray([t] * n, dtype=xp.int64)

        def predicted(part: slice) -> Array:
            return self._forward(x_t[part, ...], steps[part], *(value[part, ...] for value in self.cond.values()))[0]

        out = xp.concat(self.workers.map(predicted, parts(n, self.workers.threads)))
        prediction, fraction = halves(out) if self.learned_variance else (out, None)
        x_0, eps = implied(self.process, self.predict, x_t, t, prediction)
        if self.threshold is not None:
            x_0 = self.threshold(xp, x_0)
            eps = self.process.predict_eps(x_t, t, x_0)
        return Prediction(x_0, eps, fraction)

    def _network_output(self, x_t: Array, t: Array, *cond: Array) -> tuple[Array]:
        return (self.network.forward(self.ops, self.w, x_t, t, dict(zip(self.cond, cond, strict=True)))[0],)


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
    return xp.clip(x_0, -1.0, 1.0)


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
    s = xp.clip(size[:, ceil(percentile * size.shape[1]) - 1], 1.0, None)
    return xp.clip(x_0 / xp.reshape(s, (n, *(1,) * (x_0.ndim - 1))), -1.0, 1.0)
