"""Parametrisations: the quantity that a network predicts, and how x_0 and the noise follow from it.

A parametrisation defines F, the network's output, as a combination of x_0 and eps. x_t is one too, with
α = √alpha_bar_t and σ = √(1 − alpha_bar_t) (DDPM eq. 4):

    F = a x_0 + b eps,   x_t = α x_0 + σ eps

For a given x_t these are two equations for x_0 and eps. Their solution is, with D = α b − σ a,

    x_0 = skip x_t + out F = (b x_t − σ F) / D,   eps = (α F − a x_t) / D

Where D is 0, F is a multiple of x_t and does not determine x_0: such a chain is refused. For a given x_t, an error of F
is multiplied by dx_0/dF = out in x_0, and by deps/dF = α / D in eps. The estimate of the score of q(x_t) is −eps / σ.

In code it is a function `alpha_bar, *, <options> -> Coefficients`, an entry of group `tinyddpm.parametrisations`: it
returns a and b of each time for the (T,) table alpha_bar. All other tables are derived here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array
from tinyddpm.diffusion.process import ByTime, Fraction, GaussianProcess, Table
from tinyddpm.errors import ConfigError


class Coefficients(NamedTuple):
    """Factors in F = of_x_0 x_0 + of_eps eps, and of x_t at the network's input, scale x_t. (T,) float64 each."""

    of_x_0: Table
    of_eps: Table
    scale: Table


def eps(alpha_bar: Table) -> Coefficients:
    """Return the coefficients of F = eps (DDPM eq. 14): x_0 = (x_t − σ F) / α, undefined where alpha_bar is 0."""
    one = np.ones_like(alpha_bar)
    return Coefficients(0 * one, one, one)


def x_0(alpha_bar: Table) -> Coefficients:
    """Return the coefficients of F = x_0."""
    one = np.ones_like(alpha_bar)
    return Coefficients(one, 0 * one, one)


def v(alpha_bar: Table) -> Coefficients:
    """Return the coefficients of F = α eps − σ x_0 (arXiv 2202.00512, appendix D), the velocity on α² + σ² = 1.

    On this circle x_0 = α x_t − σ F and eps = σ x_t + α F.
    """
    return Coefficients(-((1 - alpha_bar) ** 0.5), alpha_bar**0.5, np.ones_like(alpha_bar))


def flow(alpha_bar: Table) -> Coefficients:
    """Return the coefficients of F = eps − x_0, rectified flow's velocity (arXiv 2209.03003, eq. 1).

    It implies x_0 = (x_t − σ F) / (α + σ). The flow's own samples are z = (1 − τ) x_0 + τ eps, τ = σ / (α + σ), for
    which x_0 = z − τ F; here z = x_t / (α + σ). The schedule `flow` spaces its times evenly in τ.
    """
    one = np.ones_like(alpha_bar)
    return Coefficients(-one, one, one)


def edm(alpha_bar: Table, *, sigma_data: float = 0.5) -> Coefficients:
    """Return EDM's preconditioning (eq. 7 and table 1): x_0 = c_skip x̄ + c_out F(c_in x̄), x̄ = x_t / α.

    With the noise-to-signal ratio s = σ / α, the sigma of the paper, and V = σ² + α² sigma_data², the variance of x_t:

        c_skip = sigma_data² / (s² + sigma_data²)     = α · α sigma_data² / V
        c_out  = s sigma_data / √(s² + sigma_data²)   = σ sigma_data / √V
        c_in   = 1 / √(s² + sigma_data²)              = α / √V

    so that F = (σ / sigma_data x_0 − α sigma_data eps) / √V has variance 1, and the network is shown x_t / √V. The
    paper's loss (eq. 8) weighs all errors of F alike: the weighting `uniform`. With sigma_data = 1, F is −v.

    Args:
        alpha_bar: (T,).
        sigma_data: the standard deviation of the data.

    Raises:
        ConfigError: sigma_data is not positive.
    """
    if not 0 < sigma_data < np.inf:
        raise ConfigError(f"sigma_data is {sigma_data}: give the standard deviation of the data (EDM uses 0.5)")
    scale = (1 - alpha_bar + alpha_bar * sigma_data**2) ** -0.5
    return Coefficients((1 - alpha_bar) ** 0.5 / sigma_data * scale, -(alpha_bar**0.5) * sigma_data * scale, scale)


class Parametrisation:
    """The tables by which x_0, eps and the target follow from the coefficients of F.

    Args:
        process: the chain.
        coefficients: those of F, (T,) each.
        name: name of the parametrisation in error messages.

    Raises:
        ConfigError: coefficients are not (T,) finite numbers, or F does not determine x_0 at some time of the chain,
            by numbers of float32.

    Attributes:
        process: the chain.
        skip: factor of x_t in x_0 = skip x_t + out F; (T,) float64, as all below.
        out: factor of F in it, dx_0/dF.
        eps_skip: factor of x_t in eps = eps_skip x_t + eps_out F.
        eps_out: factor of F in it, deps/dF.
        scale: factor of x_t at the network's input.
    """

    def __init__(self, process: GaussianProcess, coefficients: Coefficients, name: str = "given") -> None:
        self.process = process
        a, b, self.scale = (_checked(name, what, table, process.T) for what, table in coefficients._asdict().items())
        signal, noise = process.alpha_bar**0.5, (1 - process.alpha_bar) ** 0.5
        with np.errstate(divide="ignore", invalid="ignore"):
            D = signal * b - noise * a
            self.skip, self.out = b / D, -noise / D
            self.eps_skip, self.eps_out = -a / D, signal / D
        size = np.abs([self.skip, self.out, self.eps_skip, self.eps_out])
        silent = np.flatnonzero(~(size <= np.finfo(np.float32).max).all(axis=0))  # negated, so that NaN is above
        if len(silent):
            t = silent[0]
            raise ConfigError(
                f"parametrisation {name!r} says nothing of x_0 at t = {t}, where alpha_bar is "
                f"{process.alpha_bar[t]:g}: predict 'v' or 'x_0', leave zero_terminal_snr out, or give smaller betas"
            )
        self._of_x_0, self._of_eps, self._skip, self._out, self._eps_skip, self._eps_out = map(
            process.table, (a, b, self.skip, self.out, self.eps_skip, self.eps_out)
        )

    def target(self, x_0: Array, t: int | Array, eps: Array) -> Array:
        """Return F, the network's target at x_t = α x_0 + σ eps, of x_0's shape."""
        return _sum(t, (self._of_x_0, x_0), (self._of_eps, eps))

    def implied(self, x_t: Array, t: int | Array, F: Array) -> tuple[Array, Array]:
        """Return the x_0 and the eps that a prediction for x_t implies; −eps / σ is the score (EDM eq. 3)."""
        return _sum(t, (self._skip, x_t), (self._out, F)), _sum(t, (self._eps_skip, x_t), (self._eps_out, F))

    def slope(self, x_t: Array, t: int | Array) -> Any:
        """Return dx_0/dF: a float, or for (N,) times an array that broadcasts to x_t."""
        return self._out(t, x_t)

    def eps_share(self, x_t: Array, t: int | Array) -> tuple[Any, Any]:
        """Return u and w of eps = u x_t + w F: floats, or for (N,) times arrays that broadcast to x_t."""
        return self._eps_skip(t, x_t), self._eps_out(t, x_t)


def make_parametrisation(process: GaussianProcess, name: str, /, **options: Any) -> Parametrisation:
    """Return the parametrisation registered as `name` for a chain.

    Raises:
        RegistryError: no such parametrisation, or its plugin is broken.
        ConfigError: an option or the coefficients are wrong, see `Parametrisation`.
    """
    found = registry.build("parametrisations", name, (process.alpha_bar,), options)
    if not isinstance(found, Coefficients):
        raise ConfigError(f"parametrisation {name!r} returned {type(found).__name__}: it must return Coefficients")
    return Parametrisation(process, found, name)


def halves(out: Array) -> tuple[Array, Fraction]:
    """Return the prediction and the fraction (v + 1) / 2 in the output of a network that learns the variance.

    The output is (N, ..., 2 C): C channels of the prediction, then C of IDDPM's v, which lies in [−1, 1] unless the
    network extrapolates (eq. 15, as in its code). This v is not the parametrisation `v`.
    """
    c = out.shape[-1] // 2
    return out[..., :c], (out[..., c:] + 1) / 2


def _checked(name: str, what: str, table: Any, T: int) -> Table:
    if not isinstance(table, np.ndarray) or table.shape != (T,) or table.dtype != np.float64:
        raise ConfigError(f"parametrisation {name!r}: {what} must be a NumPy float64 array of shape ({T},)")
    if not np.all(np.isfinite(table)):
        t = np.flatnonzero(~np.isfinite(table))[0]
        raise ConfigError(f"parametrisation {name!r}: {what} is {table[t]} at t = {t}, it must be finite")
    return table


def _sum(t: int | Array, *terms: tuple[ByTime, Array]) -> Array:
    """Return the sum of factor × x over terms; a term whose factor is 0 at all times is skipped."""
    first, *others = (x if by.constant == 1 else by(t, x) * x for by, x in terms if by.constant != 0)
    return first + others[0] if others else first
