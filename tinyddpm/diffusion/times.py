"""Laws of t: how the times of a training step are drawn, and the weight of each sample's loss.

An entry of group `tinyddpm.times` is a callable `process, *, <options> -> Law`. A law that draws some times more often
than others may divide the losses by its density: the mean over t stays the same, its estimate is less noisy. Or it
leaves the weights at 1, and its density becomes a part of the loss.
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
"""Number of latest losses kept for each time."""

UNIFORM = 0.001
"""Share of the draws that is uniform over t, so that every time is drawn now and then."""

WORDS = 2**31
"""Number of values of a random word, the whole number in [0, 2³¹) that a time is drawn with."""

HostArray = np.ndarray[Any, Any]


class Law(Protocol):
    """A law of t. Several threads call `draw`, each for some of a step's samples."""

    def draw(self, random: Random, step: int, samples: HostArray) -> tuple[Array, float | Array]:
        """Return times, (N,) int64, and the weights of their losses: (N,) float32 above 0 with mean 1, or 1.0.

        Args:
            random: source of random numbers; the purpose is `TIME`.
            step: the step's number.
            samples: (N,) places in the batch of the samples that get a time.
        """
        ...

    def hear(self, t: Array, losses: Array) -> None:
        """Receive the losses, (N,), of a finished step at its times t, (N,), without the weights of `draw`."""
        ...

    def packed(self) -> HostArray | None:
        """Return the state as a (T, n) float32 array whose shape never changes; None for a law without state."""
        ...

    def unpack(self, packed: HostArray) -> None:
        """Restore the state that `packed` returned."""
        ...


class Forgetful:
    """The part of a law without state: it ignores losses and has nothing to restore."""

    def hear(self, t: Array, losses: Array) -> None:
        """Ignore the losses."""

    def packed(self) -> HostArray | None:
        """Return None."""
        return None

    def unpack(self, packed: HostArray) -> None:
        """Do nothing."""


class Uniform(Forgetful):
    """The uniform law: every time is equally probable and has weight 1 (DDPM, Algorithm 1).

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

    The probability of a time is that of the ratios whose logarithm is nearest to its own; a thousandth of the draws is
    uniform. The weights are 1: this density is a part of EDM's loss.

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
    the noise-to-signal ratio. So it is `LogNormal` with other defaults, the paper's best. The weights are 1: this
    density, too, is a part of the loss.

    Args:
        process: the chain.
        mean: of the logit, the paper's m; the larger, the more often noisy times are drawn.
        std: its standard deviation, the paper's s.

    Raises:
        ConfigError: std is not positive, or mean not finite.
    """

    def __init__(self, process: GaussianProcess, *, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__(process, mean=mean, std=std)


class LossHistory:
    """Importance sampling of t by the last losses of each time, for the variational bound (IDDPM eq. 18).

        L_vlb = E_{t ~ p}[L_t / p_t],   p_t ∝ √E[L_t²]

    This p has the least variance of all. E[L_t²] is the mean over the last 10 losses of each t. Until every t has 10, t
    is uniform; afterwards a thousandth of p still is, so that every t is drawn again. The history is a part of the
    training's state: the next draws depend on it.

    Args:
        process: the chain.

    Attributes:
        losses: (T, 10) float32, the oldest first; 0 in places not yet filled.
        counts: (T,) number of losses kept for each time.
    """

    def __init__(self, process: GaussianProcess) -> None:
        self.backend = process.backend
        self.losses = np.zeros((process.T, KEPT), np.float32)
        self.counts = np.zeros(process.T, np.int64)

    def edges(self) -> HostArray:
        """Return the `edges` of the present p, (T + 1,)."""
        T = len(self.counts)
        p = np.full(T, 1 / T)
        if self.counts.min() == KEPT:
            p = np.mean(self.losses.astype(np.float64) ** 2, axis=1) ** 0.5
            p = (1 - UNIFORM) * p / p.sum() + UNIFORM / T
        return edges(p)

    def draw(self, random: Random, step: int, samples: HostArray) -> tuple[Array, float | Array]:
        """Return times, and the weights 1 / (T p_t)."""
        t, weight = self.at(words(self.backend, random, step, samples))
        return self.backend.asarray(t), self.backend.asarray(weight)

    def at(self, words: HostArray) -> tuple[HostArray, HostArray]:
        """Return t, (N,), for (N,) random words, and float32 weights 1 / (T p_t).

        The weights use the rounded p, so that rounding causes no bias.
        """
        ends = self.edges()
        t = times_at(ends, words)
        p = np.diff(ends)[t] / WORDS
        return t, (1 / (len(self.counts) * p)).astype(np.float32)

    def hear(self, t: Array, losses: Array) -> None:
        """Append the losses, (N,), of times t, (N,), in order; the last 10 of each time are kept."""
        for time, loss in zip(self.backend.to_numpy(t), self.backend.to_numpy(losses), strict=True):
            if self.counts[time] == KEPT:
                self.losses[time, :-1] = self.losses[time, 1:]
            else:
                self.counts[time] += 1
            self.losses[time, self.counts[time] - 1] = loss

    def packed(self) -> HostArray:
        """Return the state as one (T, 1 + 10) float32 array: the counts, then the losses."""
        return np.concatenate([self.counts[:, None].astype(np.float32), self.losses], axis=1)

    def unpack(self, packed: HostArray) -> None:
        """Restore the state that `packed` returned."""
        self.counts, self.losses = packed[:, 0].astype(np.int64), packed[:, 1:].astype(np.float32)


def words(backend: Backend, random: Random, step: int, samples: HostArray) -> HostArray:
    """Return a random word in [0, 2³¹) for each sample, (N,) on the host."""
    return backend.to_numpy(random.integers(Purpose.TIME, step, samples, (), WORDS))


def edges(p: Table) -> HostArray:
    """Return the sums of p as whole numbers from 0 to 2³¹, (T + 1,): `edges[t] <= word < edges[t + 1]` selects t.

    p, (T,), is thereby rounded to multiples of 2⁻³¹.
    """
    inner = np.rint(WORDS * np.cumsum(p[:-1])).astype(np.int64)
    return np.concatenate([[0], inner, [WORDS]])


def times_at(ends: HostArray, words: HostArray) -> HostArray:
    """Return the times, (N,), that (N,) random words select between the ends that `edges` returned."""
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
