"""The Gaussian process of DDPM: q forwards, its posterior, and p backwards.

Time. In code t is 0-based: t = 0 is the papers' t = 1, so t runs from 0 to T − 1, and x at t = −1 is the data, x_0.
A time argument is one integer for all samples, or an (N,) array of the backend's integers from 0 to T − 1. A time
outside the chain raises ConfigError, and so does t = −1 where a quantity such as beta has no value at the data. Arrays
on a device are not checked, for that would need a transfer.

Equation numbers are those of DDPM (Ho, Jain, Abbeel 2020) where no other paper is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log
from operator import index
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from tinyddpm.backend import Array, Backend
from tinyddpm.errors import ConfigError, unknown

Table: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Variance: TypeAlias = Literal["large", "small"]
"""A fixed variance of p (section 3.2): "large", beta, is best for x_0 ~ N(0, I), "small", beta-tilde, for one x_0."""

Fraction: TypeAlias = Array
"""A learned variance, of x_t's shape: 0 is beta-tilde, 1 is beta, linear in their logarithms (IDDPM eq. 15)."""


def snr(alpha_bar: Table) -> Table:
    """Return the signal-to-noise ratio alpha_bar / (1 − alpha_bar)."""
    return alpha_bar / (1 - alpha_bar)


def noise_to_signal(alpha_bar: Table) -> Table:
    """Return √((1 − alpha_bar) / alpha_bar), which is EDM's σ and 1 / √SNR; infinite where alpha_bar is 0."""
    with np.errstate(divide="ignore"):
        ratio: Table = (1 / alpha_bar - 1) ** 0.5
    return ratio


class Posterior(NamedTuple):
    """The coefficients of q(x_prev | x_t, x_0) = N(c_0 x_0 + c_t x_t, beta_tilde I), and the beta of the step."""

    c_0: Any
    c_t: Any
    beta: Any
    beta_tilde: Any


def posterior_coefficients(alpha_bar_t: Any, alpha_bar_prev: Any) -> Posterior:
    """Return the posterior's coefficients between any two times of the chain (eqs. 6 and 7).

    The step from prev to t has alpha = alpha_bar_t / alpha_bar_prev. Neighbouring times give DDPM's chain; times that
    are further apart give the respaced chain of IDDPM (eq. 19).
    """
    alpha = alpha_bar_t / alpha_bar_prev
    beta = 1 - alpha
    return Posterior(
        c_0=alpha_bar_prev**0.5 * beta / (1 - alpha_bar_t),
        c_t=alpha**0.5 * (1 - alpha_bar_prev) / (1 - alpha_bar_t),
        beta=beta,
        beta_tilde=(1 - alpha_bar_prev) / (1 - alpha_bar_t) * beta,
    )


class ByTime:
    """A table with one number for each time, looked up at one time or at one time per sample.

    Args:
        backend: array library of the device's copy.
        values: (T,) float64, kept on the host; a copy lies on the device.
        dtype: type of that copy.
        data: the number at t = −1, the data; None if there is none.

    Attributes:
        constant: the number, if it is the same at all times; None otherwise.
    """

    def __init__(self, backend: Backend, values: Table, dtype: Any, data: float | None = None) -> None:
        self.values, self.device = values, backend.asarray(values, dtype=dtype)
        self._xp, self._data = backend.xp, data
        self.constant = float(values[0]) if np.all(values == values[0]) else None

    def __call__(self, t: int | Array, x: Array) -> Any:
        """Return the number at t: a float for one time, for (N,) times an array that broadcasts to x.

        Raises:
            ConfigError: a time is outside the chain; times on a device are not checked.
        """
        T = len(self.values)
        if getattr(t, "shape", ()) == ():
            time = checked_time(t, T, least=0 if self._data is None else -1)
            return float(self.values[time]) if self._data is None or time >= 0 else self._data
        if type(t) is np.ndarray and t.size:  # on the host: no transfer is needed
            checked_time(t.min(), T)
            checked_time(t.max(), T)
        return self._xp.reshape(self._xp.take(self.device, t, axis=0), (x.shape[0], *(1,) * (x.ndim - 1)))


def checked_time(t: Any, T: int, least: int = 0, name: str = "t") -> int:
    """Return one time of a chain of T steps as an int.

    Raises:
        ConfigError: t is not an integer, or outside `least` … T − 1.
    """
    try:
        time = index(t)
    except TypeError:
        raise ConfigError(f"{name} is {t}: give a time as a whole number, from {least} to {T - 1}") from None
    if not least <= time < T:
        data = " (-1 is the data)" if least < 0 else ""
        raise ConfigError(f"{name} is {time}: give a time from {least} to {T - 1}{data}")
    return time


class GaussianProcess:
    """The forward chain and everything that follows from it in closed form. It knows no network.

    Its tables are computed in float64 on the host and copied to the device once, as `dtype`.

    Args:
        backend: array library of the samples.
        betas: (T,) float64 in (0, 1), as a schedule makes them; the last may be 1 (`zero_terminal_snr`), where x_t is
            pure noise and contains nothing of x_0.
        dtype: type of the device's tables; float32 by default.

    Raises:
        ConfigError: alpha_bar is 0 before the last time, where steps of the chain are not defined.

    Attributes:
        T: the number of steps.
        betas: (T,) the variance that each step adds.
        alpha_bar: (T,) Π (1 − beta), the share of the data's variance that is left.
        dtype: type of the device's tables.
    """

    def __init__(self, backend: Backend, betas: Table, dtype: Any = None) -> None:
        self.backend = backend
        self.T = len(betas)
        self.betas: Table = betas.astype(np.float64)
        self.alpha_bar: Table = np.cumprod(1 - self.betas, dtype=np.float64)
        if not np.all(self.alpha_bar[:-1]):
            raise ConfigError(
                f"the schedule's alpha_bar, too small for a number, is 0 from t = {np.argmin(self.alpha_bar)} on: give "
                "smaller betas, or fewer steps"
            )
        self._alpha_bar_prev = np.concatenate([[1.0], self.alpha_bar])  # time t at index t + 1: the data at 0
        self.dtype = dtype or backend.xp.float32
        posterior = posterior_coefficients(self.alpha_bar, self._alpha_bar_prev[:-1])
        # The variances of p. beta_tilde is 0 at the step to the data, t = 0; there both are its first value above 0.
        first = posterior.beta_tilde[1] if self.T > 1 else posterior.beta[0]
        small, large = (np.append(first, table[1:]) for table in (posterior.beta_tilde, posterior.beta))
        self._signal = self.table(self.alpha_bar**0.5, data=1.0)
        self._noise = self.table((1 - self.alpha_bar) ** 0.5, data=0.0)
        self._divisor = self.table((1 - self.alpha_bar) ** 0.5)  # `_noise` without the data's 0: it divides
        self._keep, self._add = self.table((1 - self.betas) ** 0.5), self.table(self.betas**0.5)
        self._posterior = Posterior(*map(self.table, posterior))
        self._variance = {"small": self.table(small), "large": self.table(large)}
        self._log_variance = {"small": self.table(np.log(small)), "large": self.table(np.log(large))}
        self._log_beta = self.table(np.log(self.betas))

    def table(self, values: Table, data: float | None = None) -> ByTime:
        """Return (T,) values as a `ByTime` with this process's backend and type; `data` is the value at t = −1."""
        return ByTime(self.backend, values, self.dtype, data)

    def q_step(self, x_prev: Array, t: int | Array, eps: Array) -> Array:
        """Return x_t ~ q(x_t | x_{t−1}) = N(√(1 − beta_t) x_{t−1}, beta_t I) (eq. 2)."""
        return self._keep(t, x_prev) * x_prev + self._add(t, x_prev) * eps

    def chain(self, x_0: Array, eps: Callable[[int], Array]) -> Iterator[Array]:
        """Yield x at t = 0, 1, …, T − 1, each from the one before with fresh noise `eps(t)`."""
        x = x_0
        for t in range(self.T):
            x = self.q_step(x, t, eps(t))
            yield x

    def q_sample(self, x_0: Array, t: int | Array, eps: Array) -> Array:
        """Return x_t ~ q(x_t | x_0) = N(√alpha_bar_t x_0, (1 − alpha_bar_t) I), the whole chain in one go (eq. 4)."""
        return self._signal(t, x_0) * x_0 + self._noise(t, x_0) * eps

    def q_posterior(self, x_0: Array, x_t: Array, t: int | Array, t_prev: int | None = None) -> tuple[Array, Any]:
        """Return mean and variance of q(x_prev | x_t, x_0) (eqs. 6 and 7).

        Args:
            x_0: (N, ...).
            x_t: (N, ...).
            t: the time of x_t; one for all samples if t_prev is given.
            t_prev: an earlier time, t − 1 if None; −1 is the data itself, where the variance is 0.

        Returns:
            The mean, of x_t's shape, and beta-tilde, a float or an array that broadcasts to it.
        """
        c = self.posterior(x_t, t, t_prev)
        return c.c_0 * x_0 + c.c_t * x_t, c.beta_tilde

    def predict_x0(self, x_t: Array, t: int | Array, eps: Array) -> Array:
        """Return the x_0 that `eps` implies: (x_t − √(1 − alpha_bar_t) eps) / √alpha_bar_t (eq. 15)."""
        return (x_t - self._noise(t, x_t) * eps) / self._signal(t, x_t)

    def predict_eps(self, x_t: Array, t: int | Array, x_0: Array) -> Array:
        """Return the eps that `x_0` implies, the inverse of `predict_x0`."""
        return (x_t - self._signal(t, x_t) * x_0) / self._divisor(t, x_t)

    def p_mean_variance(
        self, x_t: Array, t: int | Array, x_0: Array, t_prev: int | None = None, variance: Variance | Fraction = "large"
    ) -> tuple[Array, Any]:
        """Return mean and variance of p(x_prev | x_t): the posterior at the predicted x_0 (eqs. 1 and 11).

        Args:
            x_t: (N, ...).
            t: the time of x_t.
            x_0: the prediction for x_t, (N, ...).
            t_prev: as in `q_posterior`.
            variance: name of a fixed variance, or a learned one, as in `p_log_variance`.

        Raises:
            ConfigError: no fixed variance has this name, or a time is outside the chain.
        """
        mean, _ = self.q_posterior(x_0, x_t, t, t_prev)
        if isinstance(variance, str):
            return mean, self._fixed_variance(variance, x_t, t, t_prev)
        return mean, self.backend.xp.exp(self.p_log_variance(x_t, t, variance, t_prev))

    def p_log_variance(
        self, x_t: Array, t: int | Array, variance: Variance | Fraction, t_prev: int | None = None
    ) -> Any:
        """Return the logarithm of p's variance, finite at every step: a float or an array that broadcasts to x_t.

        The step to the data adds no noise, but its decoder needs a variance (eq. 13). There both fixed variances are
        the chain's first posterior variance that is not 0, as in DDPM's code.

        A learned variance is log Σ = f log beta + (1 − f) log beta-tilde, f the fraction (IDDPM eq. 15).

        Args:
            x_t: (N, ...).
            t: the time of x_t.
            variance: name of a fixed variance, or a learned one.
            t_prev: as in `q_posterior`.

        Raises:
            ConfigError: no fixed variance has this name, or a time is outside the chain.
        """
        if not isinstance(variance, str):
            low, high = self.log_variance_range(x_t, t, t_prev)
            return low + variance * (high - low)
        if t_prev is None and variance in self._log_variance:
            return self._log_variance[variance](t, x_t)
        return log(self._fixed_variance(variance, x_t, t, t_prev))

    def log_variance_range(self, x_t: Array, t: int | Array, t_prev: int | None = None) -> tuple[Any, Any]:
        """Return log beta-tilde and log beta, the ends of a learned log variance: floats, or broadcasting to x_t."""
        if t_prev is None:
            return self._log_variance["small"](t, x_t), self._log_beta(t, x_t)
        return self.p_log_variance(x_t, t, "small", t_prev), log(self.posterior(x_t, t, t_prev).beta)

    def posterior(self, x_t: Array, t: int | Array, t_prev: int | None = None) -> Posterior:
        """Return the coefficients of the step from t to t_prev, t − 1 if None: floats, or broadcasting to x_t.

        Raises:
            ConfigError: a time is outside the chain, or t_prev is not before t.
        """
        if t_prev is None:
            return Posterior(*(table(t, x_t) for table in self._posterior))
        time = checked_time(t, self.T)
        prev = checked_time(t_prev, time, -1, "t_prev")
        pair = posterior_coefficients(self._alpha_bar_prev[time + 1], self._alpha_bar_prev[prev + 1])
        return Posterior(*map(float, pair))

    def level(self, x_t: Array, t: int | Array) -> tuple[Any, Any]:
        """Return √alpha_bar_t and √(1 − alpha_bar_t), the shares of signal and noise: floats, or broadcast to x_t."""
        return self._signal(t, x_t), self._noise(t, x_t)

    def __repr__(self) -> str:
        """Return the number of times, the range of √alpha_bar and the backend, in one line."""
        start, end = (float(self.alpha_bar[t]) ** 0.5 for t in (0, -1))
        return f"<GaussianProcess of {self.T} times, √alpha_bar from {start:.4g} to {end:.4g}, on {self.backend.name}>"

    @property
    def levels(self) -> tuple[Array, Array]:
        """√alpha_bar_t and √(1 − alpha_bar_t) of all times, (T,) each, on the device."""
        return self._signal.device, self._noise.device

    def _fixed_variance(self, variance: str, x_t: Array, t: int | Array, t_prev: int | None) -> Any:
        """Return the fixed variance of this name; at the step to the data, the first posterior variance not 0."""
        if variance not in self._variance:
            raise ConfigError(unknown("variance", variance, self._variance))
        if t_prev is None:
            return self._variance[variance](t, x_t)
        c = self.posterior(x_t, t, t_prev)
        if t_prev < 0:
            return float(self._variance[variance].values[0])
        return c.beta if variance == "large" else c.beta_tilde
