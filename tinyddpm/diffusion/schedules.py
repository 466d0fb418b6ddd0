"""Noise schedules: how much of the image each step of the forward process replaces by noise.

A schedule is a function `T, *, <options> -> betas`: float64, shape (T,), each in (0, 1). Index 0 is the papers' t = 1.
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

MOST_STEPS = 1_000_000
"""Largest T. It is far beyond any use: a larger number is a slip."""


def linear(T: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: bool = True) -> Betas:
    """Return betas that rise in a straight line (DDPM, section 4), shape (T,).

    DDPM chose its two ends for T = 1000. A shorter chain with the same ends stops before the image is gone, so the
    betas are multiplied by 1000/T (as IDDPM's code does), which keeps their sum and so, nearly, the final alpha_bar.

    Args:
        T: number of steps.
        beta_start: first beta of a chain of 1000 steps.
        beta_end: last beta of a chain of 1000 steps.
        rescale: whether the betas are multiplied by 1000/T; False keeps the two ends, whatever T is.

    Raises:
        ConfigError: an end is outside (0, 1), or T is so small that a rescaled beta would reach 1.
    """
    _require_fraction("beta_start", beta_start)
    _require_fraction("beta_end", beta_end)
    betas = np.linspace(beta_start, beta_end, T, dtype=np.float64)
    return _rescaled(betas, "linear") if rescale else betas


def quadratic(T: int, *, beta_start: float = 1e-4, beta_end: float = 0.028, rescale: bool = True) -> Betas:
    """Return betas whose square roots rise in a straight line, shape (T,).

    It is the "quad" of DDPM's code and the "scaled linear" of latent diffusion (Rombach et al. 2021, arXiv 2112.10752).
    The latter's ends, 0.00085 and 0.012, leave some of the image in the last step and need `zero_terminal_snr`. The
    default ends leave as little of it as those of `linear`; they too hold for T = 1000 and are rescaled by 1000/T.

    Args:
        T: number of steps.
        beta_start: first beta of a chain of 1000 steps.
        beta_end: last beta of a chain of 1000 steps.
        rescale: whether the betas are multiplied by 1000/T; False keeps the two ends, whatever T is.

    Raises:
        ConfigError: an end is outside (0, 1), or T is so small that a rescaled beta would reach 1.
    """
    _require_fraction("beta_start", beta_start)
    _require_fraction("beta_end", beta_end)
    betas = np.linspace(beta_start**0.5, beta_end**0.5, T, dtype=np.float64) ** 2
    return _rescaled(betas, "quadratic") if rescale else betas


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
    f = np.cos(np.pi / 2 * (np.arange(T + 1) / T + s) / (1 + s)) ** 2
    return _steps(f, max_beta)


def sigmoid_alpha(T: int, *, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999) -> Betas:
    """Return betas whose alpha_bar falls as a sigmoid (Jabri, Fleet, Chen 2022, arXiv 2212.11972), shape (T,).

        alpha_bar(t) = (σ(v_1) − σ(v_0 + (v_1 − v_0) t/T)) / (σ(v_1) − σ(v_0)),   v_0 = start/τ, v_1 = end/τ

    It falls from 1 to 0. Chen 2023 (arXiv 2301.10972) compares its settings over image sizes.

    Args:
        T: number of steps.
        start: argument of the sigmoid at the chain's beginning, before it is divided by tau.
        end: its argument at the chain's end, above start.
        tau: temperature above 0; the smaller, the steeper the sigmoid.
        max_beta: upper limit of a beta; the last one would be 1 without it.

    Raises:
        ConfigError: an option is out of range.
    """
    if not start < end:
        raise ConfigError(f"start is {start} and end {end}: the chain goes up the sigmoid, give the smaller as start")
    if not tau > 0:
        raise ConfigError(f"tau is {tau}: give a temperature above 0")
    _require_fraction("max_beta", max_beta)
    sigma = (1 + np.tanh(np.linspace(start, end, T + 1) / tau / 2)) / 2
    return _steps(sigma[-1] - sigma, max_beta)


def laplace(T: int, *, mu: float = 0.0, b: float = 1.0, max_beta: float = 0.999) -> Betas:
    """Return betas whose log SNR takes the quantiles of a Laplace law (Hang et al. 2024, arXiv 2407.03297), shape (T,).

        log SNR(t) = μ − b sign(½ − t/T) log(1 − 2 |t/T − ½|),   SNR = e^μ min(2t/T, 1)^(−b) min(2 − 2t/T, 1)^b

    Most steps lie around the middle, log SNR = μ. The paper trains with b = ½ and samples on another schedule: a
    chain with b = ½ begins with a large step, one with b = 1 does not. The betas fall before they rise.

    Args:
        T: number of steps.
        mu: the log SNR in the middle of the chain.
        b: the law's scale, above 0.
        max_beta: upper limit of a beta; the last one would be 1 without it.

    Raises:
        ConfigError: an option is out of range.
    """
    if not b > 0:
        raise ConfigError(f"b is {b}: give a scale above 0 (the paper uses 0.5)")
    _require_fraction("max_beta", max_beta)
    t = np.arange(T + 1) / T
    noise = np.exp(-mu) * np.minimum(2 * t, 1) ** b  # SNR = signal / noise
    signal = np.minimum(2 - 2 * t, 1) ** b
    return _steps(signal / (signal + noise), max_beta)


def flow(T: int, *, max_beta: float = 0.999) -> Betas:
    """Return betas of rectified flow (Liu et al. 2022, arXiv 2209.03003) in variance-preserving coordinates, (T,).

        noise / signal = τ / (1 − τ),   alpha_bar = (1 − τ)² / ((1 − τ)² + τ²),   τ = t/T for t = 1 … T

    The flow's samples are z = (1 − τ) x_0 + τ eps; x_t is z divided by √((1 − τ)² + τ²). The schedule is meant for the
    parametrisation `flow` and the samplers `euler` and `heun`: steps that are even in t are even in τ.

    Args:
        T: number of steps.
        max_beta: upper limit of a beta; the last one would be 1 without it.

    Raises:
        ConfigError: max_beta is out of range.
    """
    _require_fraction("max_beta", max_beta)
    tau = np.arange(T + 1) / T
    return _steps((1 - tau) ** 2 / ((1 - tau) ** 2 + tau**2), max_beta)


def zero_terminal_snr(betas: Betas) -> Betas:
    """Return betas whose chain ends in pure noise (Lin et al. 2023, arXiv 2305.08891, Algorithm 1), shape (T,).

    √alpha_bar is shifted so that its last value is 0, and scaled so that its first value does not change. The last beta
    is 1. The last x_t then contains nothing of x_0, and its eps does not determine x_0: predict v or x_0.

    Args:
        betas: (T,) of any schedule.
    """
    root = np.cumprod(1 - betas) ** 0.5
    alpha_bar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    rescaled: Betas = 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])
    return rescaled


def make_betas(name: str, T: int, /, **options: Any) -> Betas:
    """Return the betas of the schedule registered as `name`, checked: float64, shape (T,), each in (0, 1).

    Args:
        name: a name of the registry's `schedules` group.
        T: number of steps, at least 2.
        options: the schedule's own options.

    Raises:
        RegistryError: no such schedule, or its plugin is broken.
        ConfigError: T or an option is unknown, missing or out of range, or the schedule did not return such betas.
    """
    if not isinstance(T, int) or isinstance(T, bool):
        raise ConfigError(f"T is {T!r}: give the number of diffusion steps as a whole number, such as 1000")
    if not 2 <= T <= MOST_STEPS:
        raise ConfigError(
            f"T = {T}: a diffusion needs at least 2 steps and at most {MOST_STEPS:,}; use T = 1000, or T >= 50 for a"
            " quick try"
        )
    betas: Betas = registry.build("schedules", name, (T,), options)
    check_betas(betas, f"schedule {name!r}")
    if len(betas) != T:
        raise ConfigError(f"schedule {name!r} returned {len(betas)} betas for T = {T}: it must return T of them")
    return betas


def check_betas(betas: Any, source: str = "betas", *, terminal: bool = False) -> None:
    """Check that `betas` is float64, of shape (T,) with T >= 2, and that every beta lies in (0, 1).

    Args:
        betas: the array to check.
        source: name of the betas in the error message.
        terminal: whether the last beta may be 1, as `zero_terminal_snr` makes it.

    Raises:
        ConfigError: type, shape or range is wrong; the message names the first index out of range and its value.
    """
    if not isinstance(betas, np.ndarray) or betas.dtype != np.float64 or betas.ndim != 1:
        found = f"{betas.dtype} {betas.shape}" if isinstance(betas, np.ndarray) else type(betas).__name__
        raise ConfigError(f"{source}: betas must be a NumPy float64 array of shape (T,), not {found}")
    if len(betas) < 2:
        raise ConfigError(f"{source}: {len(betas)} betas are too few, a diffusion needs at least 2 steps")
    outside = np.flatnonzero(~((betas > 0) & (betas < 1)))  # negated, so that NaN is outside too
    if len(outside) and not (terminal and betas[-1] == 1 and outside[0] == len(betas) - 1):
        t = outside[0]
        raise ConfigError(f"{source}: beta at index {t} (of 0 to {len(betas) - 1}) is {betas[t]}, it must be in (0, 1)")


def _rescaled(betas: Betas, name: str) -> Betas:
    """Return `betas`, meant for 1000 steps, times 1000/T; raise ConfigError if one would reach 1."""
    T, peak = len(betas), 1000 * betas.max()
    shortest = math.floor(peak * (1 + 1e-12)) + 1  # the margin keeps rounding from raising a beta to 1
    if shortest > T:
        raise ConfigError(
            f"a {name} schedule of T = {T} steps would need a beta of {peak / T:.3g}, and betas stay below 1: "
            f"use T >= {shortest}, a smaller beta_end, or the cosine schedule"
        )
    return betas * (1000 / T)


def _steps(f: Betas, max_beta: float) -> Betas:
    """Return beta_t = 1 − f_t / f_{t−1}, at most max_beta, for f proportional to alpha_bar at t = 0, 1, …, T."""
    betas: Betas = np.minimum(1 - f[1:] / f[:-1], max_beta)
    return betas


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _require_fraction(option: str, value: float) -> None:
    if not _is_number(value) or not 0 < value < 1:
        raise ConfigError(f"{option} is {value!r}: give a number between 0 and 1, both excluded")
