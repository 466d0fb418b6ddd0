"""Spacings: the times that a sampler visits when it takes fewer steps than the chain has.

A spacing is a function `alpha_bar, steps, *, <options> -> times`, an entry of group `tinyddpm.spacings`. It returns
`steps` real numbers that start at T − 1, fall, and stay above −1, the data, where the last step ends. `make_pairs`
rounds them to times of the chain.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyddpm import registry
from tinyddpm.diffusion.process import noise_to_signal
from tinyddpm.errors import ConfigError

Floats: TypeAlias = NDArray[np.float64]


def uniform(alpha_bar: Floats, steps: int) -> Floats:
    """Return evenly spaced times from T − 1 to 0, both included (IDDPM, section 4): the last step is the shortest."""
    return np.linspace(len(alpha_bar) - 1, 0, steps)


def trailing(alpha_bar: Floats, steps: int) -> Floats:
    """Return evenly spaced times whose last is a whole step from the data (Lin et al. 2023, arXiv 2305.08891).

    All steps are equally long, also the last one, to −1. The first time is T − 1, where x is all noise.
    """
    return np.linspace(len(alpha_bar) - 1, -1, steps + 1)[:-1]


def quadratic(alpha_bar: Floats, steps: int) -> Floats:
    """Return times that grow as squares, τ_i = c i² (DDIM, arXiv 2010.02502, appendix D.2): short steps near the data.

    Here τ = t + 1 is DDIM's time, and c is such that the first time is T − 1.
    """
    return len(alpha_bar) * np.linspace(1, 0, steps + 1)[:-1] ** 2 - 1


def karras(alpha_bar: Floats, steps: int, *, rho: float = 7.0, sigma_max: float = 80.0) -> Floats:
    """Return the times whose noise levels are nearest to EDM's (arXiv 2206.00364, eq. 5).

        σ_i = (σ_max^(1/ρ) + i / (N − 1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ,   i = 0, …, N − 1

    EDM's σ is √((1 − alpha_bar) / alpha_bar). σ_min is the chain's smallest level, at time 0. σ_max is its largest
    level or EDM's, whichever is less: a cosine chain's levels go far beyond, where x shows nothing of the image. The
    first time is T − 1 in any case.

    Args:
        alpha_bar: (T,).
        steps: N.
        rho: 1 spaces σ evenly; the larger, the shorter the steps near the data.
        sigma_max: EDM's σ_max.

    Raises:
        ConfigError: rho is below 1, or sigma_max is not positive.
    """
    if not rho >= 1:
        raise ConfigError(f"rho is {rho}: give at least 1 (EDM uses 7)")
    if not sigma_max > 0:
        raise ConfigError(f"sigma_max is {sigma_max}: give a noise level above 0 (EDM uses 80)")
    levels = noise_to_signal(alpha_bar)
    sigma = np.linspace(min(sigma_max, levels[-1]) ** (1 / rho), levels[0] ** (1 / rho), steps) ** rho
    sigma[0] = levels[-1]
    # Linear between two levels: the time rounds to the nearer one.
    return np.interp(sigma, levels, np.arange(len(levels)))


def make_pairs(name: str, alpha_bar: Floats, steps: int | None = None, /, **options: Any) -> list[tuple[int, int]]:
    """Return the steps (t, t_prev) at the times of the spacing registered as `name`, from T − 1 down to −1.

    The spacing's times are rounded to those of the chain, and moved apart where two coincide.

    Args:
        name: a name of the registry's `spacings` group.
        alpha_bar: (T,), as the process has it.
        steps: number of steps, from 1 to T; T, all times of the chain, by default.
        options: the spacing's own.

    Raises:
        RegistryError: no such spacing, or its plugin is broken.
        ConfigError: `steps` or an option is out of range, or the spacing did not return such times.
    """
    T = len(alpha_bar)
    steps = _checked_steps(T, steps)
    times = np.asarray(registry.build("spacings", name, (alpha_bar, steps), options))
    # Bounds are widened by half a step, for rounding; comparisons are such that NaN fails.
    falls = times.shape == (steps,) and T - 1.5 < times[0] < T - 0.5 and times[-1] > -1 and np.all(np.diff(times) <= 0)
    if not falls:
        raise ConfigError(f"spacing {name!r}: it must return {steps} times that fall from {T - 1} and stay above -1")
    return _joined(times)


def trailing_pairs(T: int, steps: int | None = None) -> list[tuple[int, int]]:
    """Return `steps` pairs of evenly spaced times from T − 1 down to −1, as `trailing` has them; by default all T.

    Raises:
        ConfigError: `steps` is outside 1 … T.
    """
    return _joined(trailing(np.ones(T), _checked_steps(T, steps)))  # only the length of the table matters


def _checked_steps(T: int, steps: int | None) -> int:
    steps = T if steps is None else steps
    if not 1 <= steps <= T:
        raise ConfigError(f"{steps} sampling steps on a chain of {T}: give between 1 and {T}")
    return steps


def _joined(times: Floats) -> list[tuple[int, int]]:
    """Return the pairs that lead through `times`, rounded and made distinct, to −1."""
    before = np.arange(len(times))
    room = before[::-1]  # the lowest time that leaves one for each step that follows
    nearest = np.maximum(np.rint(times).astype(np.int64), room)
    distinct = np.minimum.accumulate(nearest + before) - before
    return list(pairwise([*distinct.tolist(), -1]))


def moments(total: int, count: int) -> list[int]:
    """Return at most `count` evenly spread indices of `range(total)`, ascending from the first to the last.

    For a `count` of 1 it is the last.

    Raises:
        ConfigError: `total` or `count` is below 1.
    """
    if total < 1 or count < 1:
        raise ConfigError(f"cannot choose {count} of {total} moments: both must be at least 1")
    if count == 1:
        return [total - 1]
    return [int(i) for i in np.linspace(0, total - 1, min(total, count)).round()]
