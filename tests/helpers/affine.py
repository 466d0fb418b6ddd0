"""The exact law of points that are affine in their noise, as edits of Gaussian data are: nothing is drawn."""

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
"""A Gaussian in the plane, correlated, with different variances."""


def law(edited: Callable[[Draw], Floats], draws: int) -> tuple[Floats, Floats]:
    """Return mean and covariance of points in the plane that are affine in at most `draws` standard normal ones.

    The coefficients are read off a batch whose noise is zero for one point, and a unit vector for each other one.

    Args:
        edited: function that returns the points; every call of its argument gives new noise, whatever the number.
        draws: number of these calls, or more.
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
