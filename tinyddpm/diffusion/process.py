"""The Gaussian process of DDPM: q forwards, its posterior, and p backwards.

Time. In code t is 0-based: code t is the papers' t + 1, so t runs from 0 to T − 1, and x at t = −1 is the data, x_0.
A time is an int, the same for all samples, or an (N,) array of the backend's integers.

Equation numbers are those of DDPM (Ho, Jain, Abbeel 2020) where no other paper is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from tinyddpm.backend import Array, Backend

Table: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Variance: TypeAlias = Literal["large", "small"]
"""The fixed variance of p: "large" is beta, right for x_0 ~ N(0, I), "small" beta-tilde, for one x_0 (section 3.2)."""

Fraction: TypeAlias = Array
"""A learned variance, of x_t's shape: where its logarithm lies from log beta-tilde, 0, to log beta, 1 (IDDPM, 15)."""


class Posterior(NamedTuple):
    """The coefficients of q(x_prev | x_t, x_0) = N(c_0 x_0 + c_t x_t, beta_tilde I), and the beta of the step."""

    c_0: Any
    c_t: Any
    beta: Any
    beta_tilde: Any


def posterior_coefficients(alpha_bar_t: Any, alpha_bar_prev: Any) -> Posterior:
    """Return the posterior's coefficients between any two times of the chain (eqs. 6 and 7).

    The step from prev to t has alpha = alpha_bar_t / alpha_bar_prev. Neighbours give DDPM's chain; times further apart
    give the chain that IDDPM (section 4) respaces to.
    """
    alpha = alpha_bar_t / alpha_bar_prev
    beta = 1 - alpha
    return Posterior(
        c_0=alpha_bar_prev**0.5 * beta / (1 - alpha_bar_t),
        c_t=alpha**0.5 * (1 - alpha_bar_prev) / (1 - alpha_bar_t),
        beta=beta,
        beta_tilde=(1 - alpha_bar_prev) / (1 - alpha_bar_t) * beta,
    )


class GaussianProcess:
    """The forward chain and everything that follows from it in closed form. It knows no network.

    The tables are float64 on the host; they are moved to the device once, in the type that it computes in.

    Args:
        backend: whose arrays it works on.
        betas: (T,) float64 in (0, 1), as a schedule makes them; the last may be 1 (`zero_terminal_snr`), where x_t is
            pure noise and says nothing of x_0.
        dtype: the type to compute in; float32 by default.

    Attributes:
        T: the number of steps.
        betas: (T,) the variance that each step adds.
        alpha_bar: (T,) Π (1 − beta), the share of the data's variance that is left.
        dtype: the type it computes in.
    """

    def __init__(self, backend: Backend, betas: Table, dtype: Any = None) -> None:
        self.backend = backend
        self.T = len(betas)
        self.betas: Table = betas.astype(np.float64)
        self.alpha_bar: Table = np.cumprod(1 - self.betas, dtype=np.float64)
        self._alpha_bar_prev = np.concatenate([[1.0], self.alpha_bar])  # at t + 1: t = −1 has a place
        posterior = posterior_coefficients(self.alpha_bar, self._alpha_bar_prev[:-1])
        self._tables: dict[str, Table] = {
            "signal": self.alpha_bar**0.5,
            "noise": (1 - self.alpha_bar) ** 0.5,
            "keep": (1 - self.betas) ** 0.5,
            "add": self.betas**0.5,
            "slope": self.betas / (1 - self.alpha_bar) ** 0.5,
            **posterior._asdict(),
            # beta_tilde is 0 at the step to the data: its logarithm there is the first that is finite.
            "log_small": np.log(np.append(posterior.beta_tilde[1:2], posterior.beta_tilde[1:])),
            "log_large": np.log(np.append(posterior.beta_tilde[1:2], self.betas[1:])),
            "log_beta": np.log(self.betas),
        }
        self.dtype = dtype or backend.xp.float32
        self._on_device = {name: backend.asarray(table, dtype=self.dtype) for name, table in self._tables.items()}

    def q_step(self, x_prev: Array, t: int | Array, eps: Array) -> Array:
        """Return x_t ~ q(x_t | x_{t−1}) = N(√(1 − beta_t) x_{t−1}, beta_t I) (eq. 2)."""
        return self._at("keep", t, x_prev) * x_prev + self._at("add", t, x_prev) * eps

    def chain(self, x_0: Array, eps: Callable[[int], Array]) -> Iterator[Array]:
        """Yield x at t = 0, 1, …, T − 1, each from the one before with fresh noise `eps(t)`."""
        x = x_0
        for t in range(self.T):
            x = self.q_step(x, t, eps(t))
            yield x

    def q_sample(self, x_0: Array, t: int | Array, eps: Array) -> Array:
        """Return x_t ~ q(x_t | x_0) = N(√alpha_bar_t x_0, (1 − alpha_bar_t) I), the whole chain in one go (eq. 4)."""
        return self._at("signal", t, x_0) * x_0 + self._at("noise", t, x_0) * eps

    def q_posterior(self, x_0: Array, x_t: Array, t: int | Array, t_prev: int | None = None) -> tuple[Array, Any]:
        """Return mean and variance of q(x_prev | x_t, x_0) (eqs. 6 and 7).

        Args:
            x_0: (N, ...).
            x_t: (N, ...).
            t: the time of x_t; one for all samples where t_prev is given.
            t_prev: an earlier time, t − 1 if None; −1 is the data itself, where the variance is 0.

        Returns:
            The mean, of x_t's shape, and beta-tilde, a float or an array that broadcasts to it.
        """
        c = self.posterior(x_t, t, t_prev)
        return c.c_0 * x_0 + c.c_t * x_t, c.beta_tilde

    def predict_x0(self, x_t: Array, t: int | Array, eps: Array) -> Array:
        """Return the x_0 that `eps` implies: (x_t − √(1 − alpha_bar_t) eps) / √alpha_bar_t (eq. 15)."""
        return (x_t - self._at("noise", t, x_t) * eps) / self._at("signal", t, x_t)

    def predict_eps(self, x_t: Array, t: int | Array, x_0: Array) -> Array:
        """Return the eps that `x_0` implies, the inverse of `predict_x0`."""
        return (x_t - self._at("signal", t, x_t) * x_0) / self._at("noise", t, x_t)

    def reverse_mean(self, x_t: Array, t: int | Array, eps: Array) -> Array:
        """Return the mean of p(x_{t−1} | x_t): (x_t − beta_t / √(1 − alpha_bar_t) eps) / √(1 − beta_t) (eq. 11).

        It is the posterior's mean at the x_0 that eps implies.
        """
        return (x_t - self._at("slope", t, x_t) * eps) / self._at("keep", t, x_t)

    def p_mean_variance(
        self, x_t: Array, t: int | Array, x_0: Array, t_prev: int | None = None, variance: Variance | Fraction = "large"
    ) -> tuple[Array, Any]:
        """Return mean and variance of p(x_prev | x_t): the posterior at the predicted x_0.

        Args:
            x_t: (N, ...).
            t: the time of x_t.
            x_0: the prediction for x_t, (N, ...).
            t_prev: as in `q_posterior`.
            variance: which of the two fixed ones, or a learned one.
        """
        c = self.posterior(x_t, t, t_prev)
        mean = c.c_0 * x_0 + c.c_t * x_t
        if isinstance(variance, str):
            return mean, c.beta if variance == "large" else c.beta_tilde
        return mean, self.backend.xp.exp(self.p_log_variance(x_t, t, variance, t_prev))

    def p_log_variance(
        self, x_t: Array, t: int | Array, variance: Variance | Fraction, t_prev: int | None = None
    ) -> Any:
        """Return the logarithm of p's variance, finite at every step.

        The last step, which samples no noise, has a variance too: it decodes the data (eq. 13). It is the first
        posterior variance that is not 0, for both fixed ones, as in DDPM's code.

        A learned one is log Σ = f log beta + (1 − f) log beta-tilde, f the fraction (IDDPM eq. 15).
        """
        if isinstance(variance, str):
            return self._at(f"log_{variance}", t, x_t)
        low, high = self.log_variance_range(x_t, t, t_prev)
        return low + variance * (high - low)

    def log_variance_range(self, x_t: Array, t: int | Array, t_prev: int | None = None) -> tuple[Any, Any]:
        """Return log beta-tilde and log beta, which broadcast to x_t: a learned variance lies between them."""
        if t_prev is None:
            return self._at("log_small", t, x_t), self._at("log_beta", t, x_t)
        c = self.posterior(x_t, t, t_prev)
        return log(c.beta_tilde) if t_prev >= 0 else float(self._tables["log_small"][0]), log(c.beta)

    def posterior(self, x_t: Array, t: int | Array, t_prev: int | None = None) -> Posterior:
        """Return the coefficients of the step from t to t_prev, t − 1 if None: floats, or broadcasting to x_t."""
        if t_prev is None:
            return Posterior(*(self._at(name, t, x_t) for name in Posterior._fields))
        pair = posterior_coefficients(self._alpha_bar_prev[t + 1], self._alpha_bar_prev[t_prev + 1])
        return Posterior(*map(float, pair))

    def level(self, x_t: Array, t: int | Array) -> tuple[Any, Any]:
        """Return √alpha_bar_t and √(1 − alpha_bar_t), the shares of signal and noise: floats, or broadcast to x_t."""
        return self._at("signal", t, x_t), self._at("noise", t, x_t)

    @property
    def levels(self) -> tuple[Array, Array]:
        """√alpha_bar_t and √(1 − alpha_bar_t) of all times, (T,) each, on the device."""
        return self._on_device["signal"], self._on_device["noise"]

    def _at(self, name: str, t: int | Array, x: Array) -> Any:
        """Return a table at t: a float for one time, for (N,) times an array that broadcasts to x."""
        if isinstance(t, int):
            return float(self._tables[name][t])
        xp = self.backend.xp
        return xp.reshape(xp.take(self._on_device[name], t, axis=0), (x.shape[0], *(1,) * (x.ndim - 1)))
