"""The sigmoid noise schedule, as a plugin of tinyddpm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import ConfigError


def sigmoid(
    T: int, *, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999
) -> NDArray[np.float64]:
    """Return betas whose alpha_bar falls as a sigmoid (Jabri, Fleet, Chen 2022, arXiv 2212.11972), shape (T,).

        alpha_bar(t) = (σ(v_1) − σ(v_0 + (v_1 − v_0) t/T)) / (σ(v_1) − σ(v_0)),   v_0 = start/τ, v_1 = end/τ
        beta_t = 1 − alpha_bar(t) / alpha_bar(t − 1)

    It falls from 1 to 0 and spends more steps at either end than a cosine does; Chen 2023 (arXiv 2301.10972) compares
    its settings over image sizes.

    Args:
        T: number of steps.
        start: where on the sigmoid the chain begins.
        end: where it ends.
        tau: temperature, the smaller the steeper.
        max_beta: upper limit of a beta; the last one would be 1 without it.

    Raises:
        ConfigError: an option is out of range.
    """
    if not start < end:
        raise ConfigError(f"sigmoid schedule from start = {start} to end = {end}: start must be the smaller")
    if not tau > 0:
        raise ConfigError(f"sigmoid schedule tau is {tau}: it must be positive")
    if not 0 < max_beta < 1:
        raise ConfigError(f"sigmoid schedule max_beta is {max_beta}: it must lie between 0 and 1, both excluded")
    v = np.linspace(start, end, T + 1) / tau
    s = (1 + np.tanh(v / 2)) / 2
    alpha_bar = (s[-1] - s) / (s[-1] - s[0])
    betas: NDArray[np.float64] = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)
    return betas
