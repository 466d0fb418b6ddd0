"""The exact denoiser of a mixture, with its posterior variance and its derivative."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from helpers.gaussians import Floats, Mixture
from tinyddpm.diffusion.denoiser import Prediction
from tinyddpm.diffusion.process import GaussianProcess


def log_density(mixture: Mixture, x: Floats, noise: float = 0.0) -> Floats:
    """Return log p(x) in nats of the mixture with added noise of this variance."""
    logs = []
    for weight, mean, covariance in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
        total, off = covariance + noise * np.eye(2), x - mean
        square = np.einsum("ni,ij,nj->n", off, np.linalg.inv(total), off)
        logs.append(np.log(weight) - 0.5 * (square + np.linalg.slogdet(2 * np.pi * total)[1]))
    return np.logaddexp.reduce(logs)


def drawn(mixture: Mixture, n: int, seed: int) -> Floats:
    """Return n points drawn from a mixture."""
    rng = np.random.default_rng(seed)
    k = rng.choice(len(mixture.weights), n, p=mixture.weights)
    roots = np.linalg.cholesky(mixture.covariances)
    return mixture.means[k] + np.einsum("nij,nj->ni", roots[k], rng.standard_normal((n, 2)))


@dataclass(frozen=True)
class Exact:
    """E[x_0 | x_t] and Cov[x_0 | x_t] of a mixture.

    As a `Denoiser` it has the step's own variance, beta-tilde + c_0² Var[x_0 | x_t], the best
    diagonal one there is; as a `DifferentiableDenoiser` it has ∂x_0/∂x_t = √alpha_bar / (1 − alpha_bar) Cov[x_0 | x_t].
    """

    process: GaussianProcess
    mixture: Mixture

    def posterior(self, x_t: Floats, t: int) -> tuple[Floats, Floats]:
        alpha_bar = self.process.alpha_bar[t]
        root = np.sqrt(alpha_bar)
        log_r, means, covariances = [], [], []
        for weight, mean, covariance in zip(
            self.mixture.weights, self.mixture.means, self.mixture.covariances, strict=True
        ):
            gain = root * covariance @ np.linalg.inv(alpha_bar * covariance + (1 - alpha_bar) * np.eye(2))
            means.append(mean + (x_t - root * mean) @ gain.T)
            covariances.append(covariance - root * gain @ covariance)
            single = Mixture(np.ones(1), mean[None] * root, covariance[None] * alpha_bar)
            log_r.append(np.log(weight) + log_density(single, x_t, 1 - alpha_bar))
        r = np.exp(log_r - np.logaddexp.reduce(log_r))
        x_0 = np.einsum("kn,kni->ni", r, means)
        off = np.asarray(means) - x_0
        return x_0, np.einsum("kn,kij->nij", r, covariances) + np.einsum("kn,kni,knj->nij", r, off, off)

    def __call__(self, x_t: Floats, t: int) -> Prediction:
        x_0, covariance = self.posterior(x_t, t)
        c = self.process.posterior(x_t, t)
        variance = c.beta_tilde + c.c_0**2 * np.einsum("nii->ni", covariance)
        low, high = self.process.log_variance_range(x_t, t)
        return Prediction(x_0, self.process.predict_eps(x_t, t, x_0), (np.log(variance) - low) / (high - low))

    def eps(self, x_t: Floats, t: int) -> Floats:
        return self.process.predict_eps(x_t, t, self.posterior(x_t, t)[0])

    def eps_and_vjp(self, x_t: Floats, t: int, v: Floats) -> tuple[Floats, Floats]:
        signal, noise = self.process.level(x_t, t)
        x_0, covariance = self.posterior(x_t, t)
        jacobian = (np.eye(2) - (signal / noise) ** 2 * covariance) / noise
        return self.process.predict_eps(x_t, t, x_0), np.einsum("ni,nij->nj", v, jacobian)
