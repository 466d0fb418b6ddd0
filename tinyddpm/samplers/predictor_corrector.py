"""UniPC, a predictor-corrector that calls the denoiser once a step (Zhao et al. 2023, arXiv 2302.04867)."""

from __future__ import annotations

from collections.abc import Iterator
from math import log

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.errors import ConfigError
from tinyddpm.samplers.base import Level, Noise, Pairs, Step, level


def unipc(
    process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise, *, order: int = 2
) -> Iterator[Step]:
    """Follow the probability-flow ODE by UniPC of order p in the predicted x_0 (Algorithms 1 and 2). Deterministic.

    The ODE's exact solution from one time to the next is, with h the step in λ = log(alpha / sigma),

        x_prev = sigma_prev / sigma_t x_t + alpha_prev ∫_0^h e^(τ − h) x_0(λ_t + τ) dτ

    The predictor replaces x_0(λ) by the polynomial through the last p predictions. The denoiser's prediction at the end
    of this step serves twice: the corrector (UniC) repeats the step with it as one more point of the polynomial, which
    raises the order to p + 1, and the next predictor uses it. The first steps have fewer points, which limits p = 3 to
    the third order overall. The last steps use no more points than there are steps left, since λ grows without limit
    near the data. The last step, where λ is infinite, returns the predicted x_0.

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: see `Sampler`.
        pairs: see `Sampler`.
        noise: unused.
        order: p, 1 to 3.

    Raises:
        ConfigError: order is not 1, 2 or 3.
    """
    if order not in (1, 2, 3):
        raise ConfigError(f"order is {order}: give 1, 2 or 3")
    return _unipc(process, denoiser, x, pairs, order)


def _unipc(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, order: int) -> Iterator[Step]:
    corrected, before = x, None
    points: list[tuple[float, Array]] = []  # (λ, predicted x_0), the newest last
    for left, (t, t_prev) in zip(range(len(pairs), 0, -1), pairs, strict=True):
        now, prev = level(process, t), level(process, t_prev)
        x_0 = denoiser(x, t).x_0
        points.append((-log(now.ratio), x_0))
        if before is not None:
            corrected = _step(corrected, before, now, points)
        points = points[-min(order, left) :]
        x = _step(corrected, now, prev, points) if prev.sigma > 0 else x_0
        before = now
        yield Step(t, x, x_0)


def _step(x: Array, start: Level, end: Level, points: list[tuple[float, Array]]) -> Array:
    """Return x at `end`: the exact solution from x at `start`, where x_0 is the polynomial through `points`."""
    h = log(start.ratio / end.ratio)
    tau = np.asarray([lam + log(start.ratio) for lam, _ in points])
    x = end.sigma / start.sigma * x
    for weight, (_, x_0) in zip(_weights(tau, h).tolist(), points, strict=True):
        x = x + end.alpha * weight * x_0
    return x


def _weights(tau: NDArray[np.float64], h: float) -> NDArray[np.float64]:
    """Return the w with Σ_m w_m f(τ_m) = ∫_0^h e^(τ − h) f(τ) dτ for all polynomials f through the points.

    It is the paper's R_p(h) a_p B(h) = φ_p(h) (theorem 3.1), with f = 1 included; solved exactly, B(h) cancels.
    Integration by parts gives the moments I_0 = 1 − e^(−h), I_k = h^k − k I_{k−1}.

    A line through two points is evaluated at the middle of the step, I_1 = I_0 h / 2: the coefficient a_1 = 1/2 of the
    paper's own code, exact up to the next order in h. On long steps its error is smaller than the exact integral's.
    """
    moments = [-np.expm1(-h)]
    for k in range(1, len(tau)):
        moments.append(h**k - k * moments[-1])
    if len(tau) == 2:
        moments[1] = moments[0] * h / 2
    powers = np.vander(tau, increasing=True).T
    return np.linalg.solve(powers, np.asarray(moments))
