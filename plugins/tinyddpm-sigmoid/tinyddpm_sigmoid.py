"""The sigmoid noise schedule, as a plugin of tinyddpm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import ConfigError


def sigmoid(T: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, steepness: float = 6.0) -> NDArray[np.float64]:
    """Return betas that rise as a sigmoid (GeoDiff, Xu et al. 2022, arXiv 2203.02923), shape (T,).

        beta_t = (beta_start + (beta_end − beta_start) σ(k (2t/(T − 1) − 1))) · 1000/T,   t = 0, …, T − 1

    They are nearly constant at either end. The library's own schedule sigmoid-alpha is another one: there alpha_bar is
    a sigmoid. The limits are those of T = 1000, and are rescaled for other T as those of the linear schedule are.

    Args:
        T: number of steps.
        beta_start: lower limit of the betas of a chain of 1000 steps.
        beta_end: upper limit of the betas of such a chain.
        steepness: k, the largest argument of the sigmoid; its least is −k.

    Raises:
        ConfigError: an option is out of range, or T is so small that a beta would reach 1.
    """
    if not 0 < beta_start < beta_end < 1:
        raise ConfigError(f"beta_start is {beta_start} and beta_end {beta_end}: choose 0 < beta_start < beta_end < 1")
    if not steepness > 0:
        raise ConfigError(f"steepness is {steepness}: it must be positive")
    if 1000 * beta_end >= T:
        raise ConfigError(f"a sigmoid schedule of T = {T} steps would need a beta of 1: use T > {1000 * beta_end:g}")
    s = (1 + np.tanh(np.linspace(-steepness, steepness, T) / 2)) / 2
    betas: NDArray[np.float64] = (beta_start + (beta_end - beta_start) * s) * (1000 / T)
    return betas
