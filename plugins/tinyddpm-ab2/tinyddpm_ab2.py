"""A second-order sampler with one network evaluation per step, as a plugin of tinyddpm."""

from __future__ import annotations

from collections.abc import Iterator

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.samplers import Noise, Pairs, Step, level


def ab2(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    """Follow the probability-flow ODE by the two-step Adams-Bashforth method with variable steps. Deterministic.

    In x̄ = x / √alpha_bar and s = √((1 − alpha_bar) / alpha_bar), which is 0 at the data, the ODE is

        dx̄/ds = eps(x̄, s)                                            (DDIM, arXiv 2010.02502, eq. 14)

    Euler's method, x̄ += h eps with h = s_prev − s, is DDIM. Extrapolating eps linearly from the last two times to the
    middle of the step, h/2 ahead, makes it second order:

        x̄ += h ((1 + r/2) eps_n − r/2 eps_{n−1}),   r = h_n / h_{n−1}

    The first step has no predecessor and is Euler's. PLMS (Liu et al. 2022, arXiv 2202.09778) has introduced multistep
    methods to diffusion.

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: see `Sampler`.
        pairs: see `Sampler`.
        noise: not used.
    """
    eps_before, h_before = None, 0.0
    for t, t_prev in pairs:
        now, prev = level(process, t), level(process, t_prev)
        x_0, eps = denoiser(x, t)
        h = prev.ratio - now.ratio
        slope = eps
        if eps_before is not None:
            r = h / h_before
            slope = (1 + r / 2) * eps - r / 2 * eps_before
        x = prev.alpha * (x / now.alpha + h * slope)
        eps_before, h_before = eps, h
        yield Step(t, x, x_0)
