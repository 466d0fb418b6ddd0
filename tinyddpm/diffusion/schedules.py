"""Noise schedules: how much of the image each step of the forward process replaces by noise.

A schedule is a function `T, *, <options> -> betas`: float64, shape (T,), each in (0, 1). Index t is the papers' t + 1.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyddpm import registry
from tinyddpm.errors import ConfigError

Betas: TypeAlias = NDArray[np.float64]


def linear(T: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: bool = True) -> Betas:
    """Return betas that rise in a straight line (DDPM, section 4), shape (T,).

    DDPM chose its two ends for T = 1000. A shorter chain with the same ends stops before the image is gone, so the
    betas are multiplied by 1000/T (as IDDPM's code does), which keeps their sum and so, nearly, the final alpha_bar.

    Args:
        T: number of steps.
        beta_start: first beta of a chain of 1000 steps.
        beta_end: last beta of a chain of 1000 steps.
        rescale: False takes the two ends as they are, whatever T is.

    Raises:
        ConfigError: an end is outside (0, 1), or T is so small that a rescaled beta would reach 1.
    """
    _require_fraction("beta_start", beta_start)
    _require_fraction("beta_end", beta_end)
    betas = np.linspace(beta_start, beta_end, T, dtype=np.float64)
    if not rescale:
        return betas
    peak = 1000 * max(beta_start, beta_end)
    shortest = math.floor(peak * (1 + 1e-12)) + 1  # the margin keeps rounding from making a beta 1
    if shortest > T:
        raise ConfigError(
            f"a linear schedule of T = {T} steps would need a beta of {peak / T:.3g}, and betas stay below 1: "
            f"use T >= {shortest}, a smaller beta_end, or the cosine schedule"
        )
    return betas * (1000 / T)


def cosine(T: int, *, s: float = 0.008, max_beta: float = 0.999) -> Betas:
    """Return betas whose alpha_bar falls as a squared cosine (IDDPM, eq. 17), shape (T,).

        alpha_bar(t) = f(t) / f(0),   f(t) = cos²(π/2 · (t/T + s) / (1 + s)),   beta_t = 1 - f(t) / f(t - 1)

    The ratio is taken before anything is clipped and never divides by f(T), which is zero.

    Args:
        T: number of steps.
        s: offset that keeps the first betas from being too small to learn from, in [0, 1].
        max_beta: upper limit of a beta; the last one would be 1 without it.

    Raises:
        ConfigError: an option is out of range.
    """
    if not _is_number(s) or not 0 <= s <= 1:
        raise ConfigError(f"s is {s!r}: give a number from 0 to 1 (IDDPM uses 0.008)")
    _require_fraction("max_beta", max_beta)
    f = np.cos(np.pi / 2 * (np.arange(T + 1, dtype=np.float64) / T + s) / (1 + s)) ** 2
    betas: Betas = np.minimum(1 - f[1:] / f[:-1], max_beta)
    return betas


def make_betas(name: str, T: int, /, **options: Any) -> Betas:
    """Return the betas of the schedule registered as `name`, checked: float64, shape (T,), each in (0, 1).

    Args:
        name: a name of the registry's `schedules` group.
        T: number of steps, at least 2.
        options: the schedule's own options.

    Raises:
        RegistryError: no such schedule, or its plugin is broken.
        ConfigError: T or an option is unknown, missing or out of range, or the schedule returned something else.
    """
    if not isinstance(T, int) or isinstance(T, bool):
        raise ConfigError(f"T is {T!r}: give the number of diffusion steps as a whole number, such as 1000")
    if T < 2:
        raise ConfigError(f"T = {T}: a diffusion needs at least 2 steps; use T = 1000, or T >= 50 for a quick try")
    betas: Betas = registry.build("schedules", name, (T,), options)
    check_betas(betas, f"schedule {name!r}")
    if len(betas) != T:
        raise ConfigError(f"schedule {name!r} returned {len(betas)} betas for T = {T}: it must return T of them")
    return betas


def check_betas(betas: Any, source: str = "betas") -> None:
    """Check that `betas` is float64, of shape (T,) with T >= 2, and that every beta lies in (0, 1).

    Args:
        betas: what a schedule returned or a caller brought.
        source: how the error calls it.

    Raises:
        ConfigError: it is not; the line names the first offending index and value.
    """
    if not isinstance(betas, np.ndarray) or betas.dtype != np.float64 or betas.ndim != 1:
        found = f"{betas.dtype} {betas.shape}" if isinstance(betas, np.ndarray) else type(betas).__name__
        raise ConfigError(f"{source}: betas must be a NumPy float64 array of shape (T,), not {found}")
    if len(betas) < 2:
        raise ConfigError(f"{source}: {len(betas)} betas are too few, a diffusion needs at least 2 steps")
    outside = np.flatnonzero(~((betas > 0) & (betas < 1)))  # negated, so that NaN is outside too
    if len(outside):
        t = outside[0]
        raise ConfigError(f"{source}: beta at index {t} (of 0 to {len(betas) - 1}) is {betas[t]}, it must be in (0, 1)")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _require_fraction(option: str, value: float) -> None:
    if not _is_number(value) or not 0 < value < 1:
        raise ConfigError(f"{option} is {value!r}: give a number between 0 and 1, both excluded")
