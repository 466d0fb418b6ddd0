"""Gaussian mixtures in one dimension under the forward process, in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyddpm.diffusion.process import posterior_coefficients
from tinyddpm.errors import DataError

Floats = NDArray[np.float64]


class Law(NamedTuple):
    """The mixture Σ_k weights[k] N(means[k], variances[k]), (K,) float64 each. Points have variance 0."""

    weights: Floats
    means: Floats
    variances: Floats

    @property
    def mean(self) -> float:
        """The mean of the mixture."""
        return float(self.weights @ self.means)


def law_of_points(points: NDArray[np.floating]) -> Law:
    """Return the law with equal weight on each of `points`, (n, 1).

    Raises:
        DataError: the points are not one-dimensional.
    """
    if points.ndim != 2 or points.shape[1] != 1:
        raise DataError(f"samples of shape {points.shape[1:]}: this figure is one-dimensional: give points (n, 1)")
    n = len(points)
    return Law(np.full(n, 1 / n), points[:, 0].astype(np.float64), np.zeros(n))


def density(law: Law, x: Floats) -> Floats:
    """Return the density of a law at `x`, (n,). All variances must be above 0."""
    variances = law.variances[:, None]
    each = np.exp(-((x - law.means[:, None]) ** 2) / (2 * variances)) / (2 * np.pi * variances) ** 0.5
    total: Floats = law.weights @ each
    return total


def diffused(law: Law, alpha_bar: float) -> Law:
    """Return q(x_t), the law of x_t = √alpha_bar x_0 + √(1 − alpha_bar) eps.

        q(x_t) = ∫ q(x_0) N(x_t; √alpha_bar x_0, 1 − alpha_bar) dx_0          (DDPM eq. 4)
               = Σ_k w_k N(x_t; √alpha_bar m_k, alpha_bar v_k + 1 − alpha_bar)

    The first line is the law of √alpha_bar x_0, convolved with a Gaussian kernel of variance 1 − alpha_bar.
    """
    return Law(law.weights, alpha_bar**0.5 * law.means, alpha_bar * law.variances + 1 - alpha_bar)


def reverse(law: Law, alpha_bar_t: float, alpha_bar_prev: float, x_t: float) -> Law:
    """Return q(x_prev | x_t), the exact reverse step from one number x_t, for the law q(x_0).

    By Bayes' rule it is q(x_t | x_prev) q(x_prev) / q(x_t). With alpha = alpha_bar_t / alpha_bar_prev, beta =
    1 − alpha and q(x_prev) = Σ_k w_k N(μ_k, s_k), each mode is a Gaussian times a Gaussian likelihood:

        variance  s_k beta / S_k              S_k = alpha s_k + beta
        mean      (beta μ_k + √alpha s_k x_t) / S_k
        weight    ∝ w_k N(x_t; √alpha μ_k, S_k)

    It is close to one Gaussian only for short steps, and equal to one for a single mode.
    """
    alpha = alpha_bar_t / alpha_bar_prev
    beta = 1 - alpha
    w, mu, s = diffused(law, alpha_bar_prev)
    S = alpha * s + beta
    log_w = np.log(w) - (x_t - alpha**0.5 * mu) ** 2 / (2 * S) - np.log(S) / 2
    weights = np.exp(log_w - log_w.max())
    return Law(weights / weights.sum(), (beta * mu + alpha**0.5 * s * x_t) / S, s * beta / S)


def posterior(x_0: float, alpha_bar_t: float, alpha_bar_prev: float, x_t: float) -> Law:
    """Return the Gaussian q(x_prev | x_t, x_0) in one dimension (DDPM eqs. 6 and 7)."""
    c = posterior_coefficients(alpha_bar_t, alpha_bar_prev)
    return Law(np.ones(1), np.array([c.c_0 * x_0 + c.c_t * x_t]), np.array([c.beta_tilde]))
