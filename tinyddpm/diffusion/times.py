"""Laws of t: how the times of a training step are drawn, and how much each sample counts for it.

An entry of group `tinyddpm.times` is a callable `process, *, <options> -> Law`. A law that draws some times more often
than others either undoes it by the weights, to estimate the same mean over t with less noise, or leaves the weights at
1, and its density weighs the loss.
"""

from __future__ import annotations

from math import erfc
from typing import Any, Protocol

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array, Backend, Purpose, Random
from tinyddpm.diffusion.process import GaussianProcess, Table, noise_to_signal
from tinyddpm.errors import ConfigError

KEPT = 10
"""Losses kept of each time."""

UNIFORM = 0.001
"""The share of the draws that is uniform whatever else, so that no time is forgotten."""

WORDS = 2**31

HostArray = np.ndarray[Any, Any]


class Law(Protocol):
    """See the module. It is asked by several threads, each for some of a step's samples."""

    def draw(self, random: Random, step: int, samples: HostArray) -> tuple[Array, float | Array]:
        """Return times of a step, (N,) int64, and what each counts: (N,) float32 above 0 with mean 1, or 1.0.

        Args:
            random: the numbers of the seed, for purpose `TIME`.
            step: the step's number.
            samples: (N,) the places in the batch of those that times are drawn for.
        """
        ...

    def hear(self, t: Array, losses: Array) -> None:
        """Take notice of the losses, (N,), at the times t, (N,), of a step that is done, not weighted by `draw`."""
        ...

    def packed(self) -> HostArray | None:
        """Return what it remembers, as one (T, n) float32 array of a shape that never changes; None for nothing."""
        ...

    def unpack(self, packed: HostArray) -> None:
        """Go back to where `packed` was made."""
        ...


class Forgetful:
    """What a law that remembers nothing does with what it hears."""

    def hear(self, t: Array, losses: Array) -> None:
        """Ignore them."""

    def packed(self) -> HostArray | None:
        """Return None."""
        return None

    def unpack(self, packed: HostArray) -> None:
        """Do nothing."""


class Uniform(Forgetful):
    """All times alike, and all count the same (DDPM, Algorithm 1).

    Args:
        process: the chain.
    """

    def __init__(self, process: GaussianProcess) -> None:
        self.T = process.T

    def draw(self, random: Random, step: int, samples: HostArray) -> tuple[Array, float | Array]:
        """Return uniform times, and 1."""
        return random.integers(Purpose.TIME, step, samples, (), self.T), 1.0


class LogNormal(Forgetful):
    """EDM's law: the logarithm of the noise-to-signal ratio is normal (arXiv 2206.00364, section 5).

    A time of the chain has the mass of the ratios that are nearest to its own, by their logarithms; a thousandth of the
    draws is uniform. The weights are 1: this density is a part of EDM's loss.

    Args:
        process: the chain.
        mean: of the logarithm, P_mean.
        std: its standard deviation, P_std.

    Raises:
        ConfigError: std is not positive, or mean not finite.
    """

    def __init__(self, process: GaussianProcess, *, mean: float = -1.2, std: float = 1.2) -> None:
        if not 0 < std < np.inf or not np.isfinite(mean):
            raise ConfigError(f"mean is {mean} and std {std}: give finite numbers, std above 0")
        log_ratio = np.log(noise_to_signal(process.alpha_bar))
        inner = ((log_ratio[1:] + log_ratio[:-1]) / 2 - mean) / std
        below = np.concatenate([[0.0], _phi(inner), [1.0]])
        self.p: Table = (1 - UNIFORM) * np.diff(below) + UNIFORM / process.T
        self.backend = process.backend

    def draw(self, random: Random, step: int, samples: HostArray) -> tuple[Array, float | Array]:
        """Return times, and 1."""
        t = times_at(edges(self.p), words(self.backend, random, step, samples))
        return self.backend.asarray(t), 1.0


class LogitNormal(LogNormal):
    """Stable Diffusion 3's law: the logit of rectified flow's time is normal (arXiv 2403.03206, eq. 19).

    With τ = σ / (α + σ), the time of z = (1 − τ) x_0 + τ eps, logit τ = log τ / (1 − τ) = log σ / α: the logarithm of
    the noise-to-signal ratio. So it is `LogNormal` with other defaults, those that did best in the paper; the weights
    are 1, the density being a part of the loss.

    Args:
        process: the chain.
        mean: of the logit, the paper's m; above 0 more noise is drawn.
        std: its standard deviation, the paper's s.

    Raises:
        ConfigError: std is not positive, or mean not finite.
    """

    def __init__(self, process: GaussianProcess, *, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__(process, mean=mean, std=std)


class LossHistory:
    """Importance sampling of t by the last losses of each time, for the variational bound (IDDPM eq. 18).

        L_vlb = E_{t ~ p}[L_t / p_t],   p_t ∝ √E[L_t²]

    has the least variance of all p. E[L_t²] is the mean over the last 10 losses of each t. Until every t has as many,
    t is uniform. A thousandth of p always is, so that no t is forgotten. The history is state of the training: what is
    drawn next depends on it.

    Args:
        process: the chain.

    Attributes:
        losses: (T, 10) float32, the oldest first; 0 where none is yet.
        counts: (T,) how many there are of each.
    """

    def __init__(self, process: GaussianProcess) -> None:
        self.backend = process.backend
        self.losses = np.zeros((process.T, KEPT), np.float32)
        self.counts = np.zeros(process.T, np.int64)

    def edges(self) -> HostArray:
        """Return `edges` of p."""
        T = len(self.counts)
        p = np.full(T, 1 / T)
        if self.counts.min() == KEPT:
            p = np.mean(self.losses.astype(np.float64) ** 2, axis=1) ** 0.5
            p = (1 - UNIFORM) * p / p.sum() + UNIFORM / T
        return edges(p)

    def draw(self, random: Random, step: int, samples: HostArray) -> tuple[Array, float | Array]:
        """Return times, and 1 / (T p_t)."""
        t, weight = self.at(words(self.backend, random, step, samples))
        return self.backend.asarray(t), self.backend.asarray(weight)

    def at(self, words: HostArray) -> tuple[HostArray, HostArray]:
        """Return t, (N,), for (N,) random whole numbers in [0, 2³¹), and float32 weights 1 / (T p_t).

        The weights are those of the rounded p: rounding leaves no bias.
        """
        ends = self.edges()
        t = times_at(ends, words)
        p = np.diff(ends)[t] / WORDS
        return t, (1 / (len(self.counts) * p)).astype(np.float32)

    def hear(self, t: Array, losses: Array) -> None:
        """Add the losses, (N,), of the times t, (N,), in order; of each time the last 10 are kept."""
        for time, loss in zip(self.backend.to_numpy(t), self.backend.to_numpy(losses), strict=True):
            if self.counts[time] == KEPT:
                self.losses[time, :-1] = self.losses[time, 1:]
            else:
                self.counts[time] += 1
            self.losses[time, self.counts[time] - 1] = loss

    def packed(self) -> HostArray:
        """Return all of it as one (T, 1 + 10) float32 array: the counts, then the losses."""
        return np.concatenate([self.counts[:, None].astype(np.float32), self.losses], axis=1)

    def unpack(self, packed: HostArray) -> None:
        """Go back to where `packed` was made."""
        self.counts, self.losses = packed[:, 0].astype(np.int64), packed[:, 1:].astype(np.float32)


def words(backend: Backend, random: Random, step: int, samples: HostArray) -> HostArray:
    """Return a random whole number in [0, 2³¹) for each sample, on the host, to draw its time with."""
    return backend.to_numpy(random.integers(Purpose.TIME, step, samples, (), WORDS))


def edges(p: Table) -> HostArray:
    """Return (T + 1,) whole numbers from 0 to 2³¹: t is drawn where a random word lies from edges[t] to the next.

    p, (T,), is rounded to multiples of 2⁻³¹.
    """
    inner = np.rint(WORDS * np.cumsum(p[:-1])).astype(np.int64)
    return np.concatenate([[0], inner, [WORDS]])


def times_at(ends: HostArray, words: HostArray) -> HostArray:
    """Return the times, (N,), of (N,) random whole numbers in [0, 2³¹), for `edges`."""
    t: HostArray = np.searchsorted(ends, words, side="right") - 1
    return t


def make_law(process: GaussianProcess, name: str, /, **options: Any) -> Law:
    """Return the law of t registered as `name`, for a chain.

    Raises:
        RegistryError: no such law, or its plugin is broken.
        ConfigError: an option is wrong.
    """
    law: Law = registry.build("times", name, (process,), options)
    return law


def _phi(z: Table) -> Table:
    """Return the standard normal distribution function."""
    return np.asarray([0.5 * erfc(-value / 2**0.5) for value in z])
