"""What a sampler is, and the times it visits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.errors import ConfigError

Noise: TypeAlias = Callable[[int], Array]
"""Standard normal noise of the samples' shape, for the step that leaves time t."""

Pairs: TypeAlias = Sequence[tuple[int, int]]
"""The steps of a sampler, (t, t_prev), from T − 1 down to −1, the data."""


class Step(NamedTuple):
    """One step of a sampler: the time it left, where it led, and the x_0 predicted on the way."""

    t: int
    x: Array
    x_0: Array


class Sampler(Protocol):
    """A loop over a denoiser, as an entry of group `tinyddpm.samplers`. Options are keyword-only, with defaults."""

    def __call__(
        self, process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise, **options: Any
    ) -> Iterator[Step]:
        """Yield every step; the last one's `x` is the sample.

        Args:
            process: the chain that the denoiser was made for.
            denoiser: predicts x_0 and eps.
            x: (N, ...) standard normal noise, x at time T − 1.
            pairs: the steps to take.
            noise: fresh noise for each step; a deterministic sampler ignores it.
            options: the sampler's own.
        """
        ...


def uniform_pairs(T: int, steps: int | None = None) -> list[tuple[int, int]]:
    """Return `steps` pairs of evenly spaced times from T − 1 down to −1; all T of them by default.

    Raises:
        ConfigError: there are not between 1 and T steps.
    """
    steps = T if steps is None else steps
    if not 1 <= steps <= T:
        raise ConfigError(f"{steps} sampling steps on a chain of {T}: give between 1 and {T}")
    times = [round(t) for t in np.linspace(T - 1, -1, steps + 1)]
    return list(pairwise(times))
