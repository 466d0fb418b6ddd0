"""DPM-Solver++, two-step: Lu et al. 2022, arXiv 2211.01095.

Both solvers integrate in λ = log(alpha / sigma), half the logarithm of the signal-to-noise ratio. Their linear part is
exact, and the predicted x_0 is extrapolated linearly in λ from the last two times to the middle of the step:

    h = λ_prev − λ_t,   r = h_before / h,   D = (1 + 1 / (2r)) x_0 − 1 / (2r) x_0_before      (Algorithm 2)

The denoiser is called once a step. The first step has no predecessor and takes D = x_0. So does the last: λ is infinite
at the data, where nothing can be extrapolated, and the step's formula reduces to x = D.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.samplers.base import Noise, Pairs, Step, level


def dpmpp_2m(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    """Follow the probability-flow ODE by DPM-Solver++(2M) (Algorithm 2). Deterministic, second order.

        x_prev = sigma_prev / sigma_t x − alpha_prev (e^(−h) − 1) D

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: see `Sampler`.
        pairs: see `Sampler`.
        noise: unused.
    """
    memory = _Memory()
    for t, t_prev in pairs:
        now, prev = level(process, t), level(process, t_prev)
        x_0 = denoiser(x, t).x_0
        decay = prev.ratio / now.ratio  # e^(−h)
        x = prev.sigma / now.sigma * x + prev.alpha * (1 - decay) * memory.extrapolated(x_0, decay)
        yield Step(t, x, x_0)


def dpmpp_2m_sde(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    """Follow the reverse SDE by SDE-DPM-Solver++(2M) (the same paper). Stochastic, second order in law.

        x_prev = sigma_prev / sigma_t e^(−h) x + alpha_prev s² D + sigma_prev s z,   s = √(1 − e^(−2h))

    With D = x_0 throughout it is DDIM with η = 1.

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: see `Sampler`.
        pairs: see `Sampler`.
        noise: see `Sampler`; unused in the last step.
    """
    memory = _Memory()
    for t, t_prev in pairs:
        now, prev = level(process, t), level(process, t_prev)
        x_0 = denoiser(x, t).x_0
        decay = prev.ratio / now.ratio  # e^(−h)
        x = prev.sigma / now.sigma * decay * x + prev.alpha * (1 - decay**2) * memory.extrapolated(x_0, decay)
        if prev.sigma > 0:
            x = x + prev.sigma * (1 - decay**2) ** 0.5 * noise(t)
        yield Step(t, x, x_0)


class _Memory:
    """The x_0 predicted in the previous step, and that step's length in λ."""

    def __init__(self) -> None:
        self.x_0: Array | None = None
        self.h = 0.0

    def extrapolated(self, x_0: Array, decay: float) -> Array:
        """Return D for a step with e^(−h) = `decay`, and store this step as the previous one."""
        before, h_before = self.x_0, self.h
        self.x_0 = x_0
        if decay == 0:
            return x_0
        self.h = -log(decay)
        if before is None:
            return x_0
        weight = self.h / (2 * h_before)  # 1 / (2r)
        return (1 + weight) * x_0 - weight * before
