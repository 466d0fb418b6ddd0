"""The likelihood by the probability flow: its ODE carries the density N(0, I) to the density of the samples.

With x̄ = x / √alpha_bar and the noise-to-signal ratio s = √((1 − alpha_bar) / alpha_bar) as time, the flow whose
marginals are those of the diffusion is (DDIM eq. 14; Song et al. 2021, arXiv 2011.13456, eq. 13)

    dx̄/ds = eps(x, t)

and the density p̄ of x̄ along it changes by its divergence (ibid. eq. 39):

    log p̄_0(x̄_0) = log p̄_T(x̄_T) + ∫ tr(∂eps/∂x̄) ds
                 = log p̄_T(x̄_T) + ∫ tr(s ∂eps/∂x̄) d log s

from the chain's first time, t = 0, to its last, where x ~ N(0, I) is assumed. The second form is the one to integrate:
s ∂eps/∂x̄ = I − ∂x̂_0/∂x̄ for the predicted x̂_0, so that each element adds between 0 (pure data) and 1 (pure noise).
The trace is Hutchinson's estimate, vᵀ J v for random signs v, with E[v vᵀ] = I (arXiv 1810.01367).

Which density. It is the model's at t = 0, where the data still have noise of standard deviation s_0; no step removes
it, and x̄_0 is the sample itself. For images each pixel is dequantised: moved to a uniformly drawn place in its bin, of
width 2/255. The mean of −log2 p̄_0 − log2 (2/255) per dimension over these places is an upper bound of the code length
of the bins (Theis et al. 2016, arXiv 1511.01844, section 3.1), so it compares with the variational bound.
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
"""Width of a pixel's bin: the distance between two neighbouring levels of the 256 in [−1, 1]."""


class DifferentiableDenoiser(Protocol):
    """A predictor of the noise with its vector-Jacobian product."""

    def eps(self, x_t: Array, t: int) -> Array:
        """Return the eps predicted for x_t, (N, ...)."""
        ...

    def eps_and_vjp(self, x_t: Array, t: int, v: Array) -> tuple[Array, Array]:
        """Return eps, and vᵀ ∂eps/∂x_t of each sample, both of x_t's shape."""
        ...


def flow_times(process: GaussianProcess, steps: int | None = None) -> list[int]:
    """Return the `steps` + 1 times from 0 to T − 1 that a solver visits, about even in log s; all T if steps is None.

    Raises:
        ConfigError: `steps` is outside 1 … T − 1, or the chain ends without any signal.
    """
    T, log_s = process.T, np.log(ratios(process))
    if steps is None:
        return list(range(T))
    if not 1 <= steps < T:
        raise ConfigError(f"{steps} steps of the flow on a chain of {T}: give between 1 and {T - 1}")
    wanted = np.interp(np.linspace(log_s[0], log_s[-1], steps + 1), log_s, np.arange(T))
    here = np.arange(steps + 1)
    # Distinct: each is at least one above its predecessor, and low enough to leave a time for each that follows.
    rising = np.maximum.accumulate(np.rint(wanted).astype(np.int64) - here) + here
    times: list[int] = np.minimum(rising, T - 1 - here[::-1]).tolist()
    return times


def ratios(process: GaussianProcess) -> Floats:
    """Return s = √((1 − alpha_bar) / alpha_bar) of each time, (T,).

    Raises:
        ConfigError: the chain ends without any signal, where s is infinite.
    """
    if process.alpha_bar[-1] == 0:
        raise ConfigError(
            "the schedule ends with alpha_bar = 0, where the probability flow is not defined: leave --flow out"
        )
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
    trapezoidal rule in log s. Both errors fall with the square of the step.

    Args:
        process: the chain.
        denoiser: predicts the noise in x_t, with its vector-Jacobian product.
        x_bar: (N, ...).
        times: ascending from 0 to T − 1, see `flow_times`.
        probe: returns random signs for a time, of x_bar's shape.
        watch: called after each step, for progress.

    Raises:
        ConfigError: the chain ends without any signal.
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
    """Return −log2 of a density per dimension of samples of this shape; given a bin's `width`, of the bins' masses."""
    return -(log_density / prod(shape) + (log(width) if width else 0.0)) / log(2)
