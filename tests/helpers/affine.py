"""The exact law of what is affine in its noise, as all edits and samplers of Gaussian data are: no draws, no chance."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np

from helpers.gaussians import Floats, Mixture
from tinyddpm.backend import load_backend
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas

Draw = Callable[[int], Floats]

LINEAR = GaussianProcess(load_backend("numpy"), make_betas("linear", 1000), dtype=np.float64)

MEAN = np.array([0.3, -0.4])
COVARIANCE = np.array([[0.5, 0.35], [0.35, 0.6]])
GAUSSIAN = Mixture(np.ones(1), MEAN[None], COVARIANCE[None])
"""Correlated, and of unequal spread."""


def law(edited: Callable[[Draw], Floats], draws: int) -> tuple[Floats, Floats]:
    """Return mean and covariance of points in the plane that are affine in at most `draws` standard normal ones.

    A batch of no noise, and of one unit vector each, tells all coefficients.

    Args:
        edited: makes the points; each call of its argument, with whatever number, is noise of its own.
        draws: at least as many as it asks for.
    """
    numbers = count()

    def draw(_: int) -> Floats:
        first = 1 + 2 * next(numbers)
        z = np.zeros((1 + 2 * draws, 2))
        z[first, 0] = z[first + 1, 1] = 1
        return z

    x = edited(draw)
    linear = x[1:] - x[0]
    return x[0], linear.T @ linear


def denoised(t: int, start: Floats, start_covariance: Floats) -> tuple[Floats, Floats]:
    """Return mean and covariance of x_0 ~ p(x_0 | x_t) for x_t ~ N(start, start_covariance), by Gaussian regression."""
    alpha_bar = LINEAR.alpha_bar[t]
    total = alpha_bar * COVARIANCE + (1 - alpha_bar) * np.eye(2)
    gain = alpha_bar**0.5 * COVARIANCE @ np.linalg.inv(total)
    rest = COVARIANCE - alpha_bar**0.5 * gain @ COVARIANCE
    return MEAN + gain @ (start - alpha_bar**0.5 * MEAN), gain @ start_covariance @ gain.T + rest
