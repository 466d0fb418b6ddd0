"""The likelihood by the probability flow: the density that its ODE carries from N(0, I) to the samples.

With x̄ = x / √alpha_bar and the noise-to-signal ratio s = √((1 − alpha_bar) / alpha_bar) as time, the flow that has the
diffused laws is (DDIM eq. 14; Song et al. 2021, arXiv 2011.13456, eq. 13)

    dx̄/ds = eps(x, t)

and the density p̄ of x̄ along it changes by its divergence (ibid. eq. 39):

    log p̄_0(x̄_0) = log p̄_T(x̄_T) + ∫ tr(∂eps/∂x̄) ds = log p̄_T(x̄_T) + ∫ tr(s ∂eps/∂x̄) d log s

from the chain's first time, t = 0, to its last, where x ~ N(0, I) is assumed. The second form is the one to integrate:
s ∂eps/∂x̄ = I − ∂x̂_0/∂x̄ for the predicted x̂_0, so that each element adds from 0, where the data are all there is, to 1,
where noise is. The trace is Hutchinson's estimate, vᵀ J v for random signs v, with E[v vᵀ] = I (arXiv 1810.01367).

Which law. The density is that of the model at t = 0, the data with noise of the standard deviation s_0 in them, and no
step goes on from there: x̄_0 is the sample itself. For images each pixel is moved to a uniform place in its bin, of
width 2/255. Then −log2 p̄_0 − log2 (2/255) per dimension is, in its mean over places, an upper limit of what the bins'
masses cost (Theis et al. 2016, arXiv 1511.01844, section 3.1), so that it compares with the variational bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log, pi, prod
from typing import Protocol, TypeVar

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.diffusion.bound import Floats
from tinyddpm.diffusion.process import GaussianProcess, noise_to_signal
from tinyddpm.errors import ConfigError

Result = TypeVar("Result")

BIN = 2 / 255
"""The width of a pixel's bin."""


class DifferentiableDenoiser(Protocol):
    """A predicted noise that can say its derivative along a direction, from the output's side."""

    def eps(self, x_t: Array, t: int) -> Array:
        """Return the eps predicted for x_t, (N, ...)."""
        ...

    def eps_and_vjp(self, x_t: Array, t: int, v: Array) -> tuple[Array, Array]:
        """Return eps, and vᵀ ∂eps/∂x_t of each sample, both of x_t's shape."""
        ...


def flow_times(process: GaussianProcess, steps: int | None = None) -> list[int]:
    """Return the times from 0 to T − 1 that a solver of `steps` steps visits: about even in log s; all by default.

    Raises:
        ConfigError: there are not between 1 and T − 1 steps, or see `ratios`.
    """
    T, log_s = process.T, np.log(ratios(process))
    if steps is None:
        return list(range(T))
    if not 1 <= steps < T:
        raise ConfigError(f"{steps} steps of the flow on a chain of {T}: give between 1 and {T - 1}")
    wanted = np.interp(np.linspace(log_s[0], log_s[-1], steps + 1), log_s, np.arange(T))
    here = np.arange(steps + 1)
    # Distinct: each at least one above the one before, and low enough to leave one for each to come.
    rising = np.maximum.accumulate(np.rint(wanted).astype(np.int64) - here) + here
    times: list[int] = np.minimum(rising, T - 1 - here[::-1]).tolist()
    return times


def ratios(process: GaussianProcess) -> Floats:
    """Return s = √((1 − alpha_bar) / alpha_bar) of each time, (T,).

    Raises:
        ConfigError: the chain ends without any signal, where s has no end.
    """
    if process.alpha_bar[-1] == 0:
        raise ConfigError("the schedule ends with alpha_bar = 0, and the probability flow needs some signal: no --flow")
    return noise_to_signal(process.alpha_bar)


def flow_log_density(
    process: GaussianProcess,
    denoiser: DifferentiableDenoiser,
    x_bar: Array,
    times: Sequence[int],
    probe: Callable[[int], Array],
    watch: Callable[[], None] = lambda: None,
) -> Floats:
    """Return log p̄_0(x_bar) of each sample in nats, (N,).

    x̄ follows the flow (DDIM eq. 14) by Heun's method in s. The trace at the times visited is integrated by the
    trapezoidal rule in log s. The error falls with the square of the step.

    Args:
        process: the chain.
        denoiser: the noise that is in x_t, and its derivative.
        x_bar: (N, ...).
        times: ascending from 0 to T − 1, see `flow_times`.
        probe: random signs for a time, of x_bar's shape.
        watch: called after each step, for progress.

    Raises:
        ConfigError: see `ratios`.
    """
    xp, s, root = process.backend.xp, ratios(process), process.alpha_bar**0.5
    axes, D = tuple(range(1, x_bar.ndim)), prod(x_bar.shape[1:])
    traces = []
    for t, t_next in zip(times, [*times[1:], None], strict=True):
        v = probe(t)
        eps, vjp = denoiser.eps_and_vjp(float(root[t]) * x_bar, t, v)
        # ∂eps/∂x̄ = √alpha_bar ∂eps/∂x, and s √alpha_bar = √(1 − alpha_bar)
        traces.append(float(s[t] * root[t]) * xp.sum(vjp * v, axis=axes))
        if t_next is not None:
            h = float(s[t_next] - s[t])
            ahead = denoiser.eps(float(root[t_next]) * (x_bar + h * eps), t_next)
            x_bar = x_bar + (h / 2) * (eps + ahead)
        watch()
    host = process.backend.to_numpy
    trace = host(xp.stack(traces, axis=-1)).astype(np.float64)
    square = host(xp.sum((float(root[times[-1]]) * x_bar) ** 2, axis=axes)).astype(np.float64)
    # The density of x̄ is that of x times √alpha_bar in each dimension.
    last = -0.5 * (square + D * log(2 * pi)) + D * log(root[times[-1]])
    result: Floats = last + np.trapezoid(trace, np.log(s[list(times)]), axis=1)
    return result


def bits_per_dimension(log_density: Floats, shape: tuple[int, ...], width: float | None = None) -> Floats:
    """Return −log2 of a density per dimension of samples of this shape; of the bins' masses, if `width` is a bin's."""
    return -(log_density / prod(shape) + (log(width) if width else 0.0)) / log(2)
