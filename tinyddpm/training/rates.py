"""Learning rates: how the rate changes after the warm-up.

A rate is a function `steps, **options -> shares`. The shares, (steps,) float64, are fractions of the full learning
rate, one for each step after the warm-up. An entry of group `tinyddpm.rates` is such a function.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tinyddpm import registry
from tinyddpm.errors import ConfigError, RegistryError
from tinyddpm.model.config import Config

Table: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def constant(steps: int) -> Table:
    """Return 1 for every step: the constant rate that DDPM trains with."""
    return np.ones(steps)


def linear(steps: int, *, last: float = 0.0) -> Table:
    """Return shares that fall linearly from 1; one step after the end they would reach `last`, in [0, 1].

    Raises:
        ConfigError: `last` is outside [0, 1].
    """
    _check_last(last)
    return 1 - (1 - last) * np.arange(steps) / steps


def cosine(steps: int, *, last: float = 0.0) -> Table:
    """Return shares that fall by half a cosine from 1 towards `last`, in [0, 1] (SGDR, arXiv 1608.03983, eq. 5).

    Raises:
        ConfigError: `last` is outside [0, 1].
    """
    _check_last(last)
    return last + (1 - last) * (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2


def inverse_sqrt(steps: int, *, after: int = 70_000) -> Table:
    """Return 1 / √max(k / after, 1) for the steps k = 1, 2, … after the warm-up (EDM2, arXiv 2312.02696, eq. 67).

    Args:
        steps: the number of steps.
        after: the step from which the rate falls. EDM2 takes 70,000 for ImageNet-512.

    Raises:
        ConfigError: `after` is below 1.
    """
    if after < 1:
        raise ConfigError(f"after is {after}: give a number of steps from 1 on")
    return 1 / np.sqrt(np.maximum(np.arange(1, steps + 1) / after, 1.0))


def learning_rates(config: Config) -> Table:
    """Return the learning rate of each training step, (steps,).

    The rate rises linearly over the warm-up, then follows the configuration's rate.

    Raises:
        RegistryError: the rate is not installed, or does not return finite float64 shares from 0, one for each step.
        ConfigError: an option is wrong.
    """
    training, name = config.training, config.rate.name
    after = max(1, training.steps - training.warmup)
    shares = np.asarray(registry.build("rates", name, (after,), config.rate.options))
    if shares.shape != (after,) or shares.dtype != np.float64 or not np.all(np.isfinite(shares) & (shares >= 0)):
        raise RegistryError(
            f"rate {name!r} gives {shares.dtype} of shape {shares.shape}: it must give float64 of shape ({after},),"
            " finite and from 0 on"
        )
    rise = np.arange(1, training.warmup + 1) / training.warmup if training.warmup else np.ones(0)
    return training.learning_rate * np.concatenate([rise * shares[0], shares])[: training.steps]


def rate_at(rates: Table, step: int) -> float:
    """Return the learning rate of a step, 0-based. Steps beyond the end, as in a benchmark, have the last one."""
    return float(rates[min(step, len(rates) - 1)])


def _check_last(last: float) -> None:
    if not 0 <= last <= 1:
        raise ConfigError(f"last is {last}: give a share of the learning rate from 0 to 1")
