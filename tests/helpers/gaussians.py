"""Gaussian mixtures, whose law is known at every time, and their exact denoiser."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.diffusion.process import GaussianProcess

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """The mixture Σ_k weights[k] N(means[k], covariances[k]) in the plane."""

    weights: Floats
    means: Floats
    covariances: Floats

    @property
    def mean(self) -> Floats:
        return self.weights @ self.means

    @property
    def covariance(self) -> Floats:
        centred = self.means - self.mean
        return np.einsum("k,kij->ij", self.weights, self.covariances + np.einsum("ki,kj->kij", centred, centred))

    def modes(self, x: Floats) -> NDArray[np.int64]:
        """Return the index of the nearest mode of each point."""
        return np.argmin(((x[:, None] - self.means) ** 2).sum(-1), axis=1)

    def assert_reproduced(self, x: Floats, bias: float) -> None:
        """Check that mean, covariance and weights of the modes of points (n, 2) are those of the mixture.

        Bounds are 5 standard errors, a false alarm below 1e-6 each by the normal law, plus `bias`.
        """
        n, spread = len(x), np.sqrt(np.diag(self.covariance))
        assert np.all(np.abs(x.mean(0) - self.mean) < 5 * spread / np.sqrt(n) + bias)
        products = (x - self.mean)[:, :, None] * (x - self.mean)[:, None, :]
        error = 5 * products.std(0) / np.sqrt(n) + bias
        assert np.all(np.abs(products.mean(0) - self.covariance) < error)
        weights = np.bincount(self.modes(x), minlength=len(self.weights)) / n
        assert np.all(np.abs(weights - self.weights) < 5 * np.sqrt(self.weights * (1 - self.weights) / n) + bias)

    def denoiser(self, process: GaussianProcess) -> Denoiser:
        """Return E[x_0 | x_t]: the linear regression of x_0 on x_t of each mode, weighted by p(mode | x_t)."""

        def denoise(x_t: Floats, t: int) -> Prediction:
            alpha_bar = process.alpha_bar[t]
            root = np.sqrt(alpha_bar)
            total = alpha_bar * self.covariances + (1 - alpha_bar) * np.eye(2)
            off = np.asarray(x_t, np.float64) - root * self.means[:, None]  # (k, n, 2)
            solved = off @ np.linalg.inv(total)
            constant = np.log(self.weights) - 0.5 * np.linalg.slogdet(total)[1]
            log_r = constant[:, None] - 0.5 * np.einsum("kni,kni->kn", off, solved)
            r = np.exp(log_r - log_r.max(0))
            x_0 = self.means[:, None] + root * solved @ self.covariances
            mixed = np.einsum("kn,kni->ni", r / r.sum(0), x_0)
            return Prediction(mixed, (x_t - root * mixed) / np.sqrt(1 - alpha_bar))

        return denoise


THREE = Mixture(
    weights=np.array([0.5, 0.3, 0.2]),
    means=np.array([[-1.2, 0.0], [1.0, 0.8], [0.6, -1.1]]),
    covariances=np.array([[[0.04, 0.02], [0.02, 0.05]], [[0.02, 0.0], [0.0, 0.06]], [[0.03, -0.01], [-0.01, 0.03]]]),
)
"""Three well separated modes with different weights and covariances."""
