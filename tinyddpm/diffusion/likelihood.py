"""The terms of the variational bound on −log p(x_0), in bits per dimension (DDPM eq. 5).

    L = L_T + Σ_{t=1}^{T−1} L_t + L_0
    L_t = KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t))  for t ≥ 1,   L_0 = −log p(x_0 | x at t = 0)

in the 0-based times of the code. L_T = KL(q(x_{T−1} | x_0) ‖ N(0, I)) depends on no network.
"""

from __future__ import annotations

from math import log, log1p, prod
from typing import Literal, TypeAlias

from tinyddpm.backend import Array
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.ops import Operations, Saved

Decoder: TypeAlias = Literal["pixels", "points"]
"""The form of L_0: "pixels" is the mass of the bin of one of an image's 256 levels (eq. 13), "points" a density."""


def bound_term(
    ops: Operations,
    process: GaussianProcess,
    decoder: Decoder,
    x_0: Array,
    x_t: Array,
    t: Array,
    mean: Array,
    log_variance: Array,
) -> tuple[Array, Saved]:
    """Return L_t of each sample in bits per dimension, (N,), for p(x_{t−1} | x_t) = N(mean, e^log_variance).

    It is a KL divergence for t ≥ 1, and the decoder's −log p(x_0) at t = 0 (DDPM eq. 5; IDDPM eqs. 5 and 6). For
    "points" L_0 is minus the logarithm of a density and may be negative.

    Args:
        ops: operations of the backend.
        process: the chain.
        decoder: the form of L_0.
        x_0: (N, ...) data.
        x_t: (N, ...).
        t: (N,) times, one for each sample.
        mean: (N, ...).
        log_variance: (N, ...), see `p_log_variance`.
    """
    xp = ops.xp
    log_variance = log_variance + xp.zeros_like(mean)
    q_mean, _ = process.q_posterior(x_0, x_t, t)
    kl, saved_kl = ops.gaussian_kl(mean, log_variance, q_mean, process.p_log_variance(x_t, t, "small"))
    decode = ops.pixel_nll if decoder == "pixels" else ops.gaussian_nll
    nll, saved_nll = decode(mean, log_variance, x_0)
    first = xp.reshape(t == 0, (t.shape[0], *(1 for _ in x_0.shape[1:])))
    per_element = xp.where(first, nll, kl)
    term = xp.mean(per_element, axis=tuple(range(1, x_0.ndim))) / log(2)
    return term, (saved_kl, saved_nll, first, decoder, x_0.shape)


def bound_term_backward(ops: Operations, saved: Saved, dterm: Array) -> tuple[Array, Array]:
    """Return dmean and dlog_variance of `bound_term` for dterm, (N,): those of the KL, or at t = 0 of the decoder."""
    xp = ops.xp
    saved_kl, saved_nll, first, decoder, shape = saved
    d = xp.reshape(dterm / (log(2) * prod(shape[1:])), first.shape)
    decode_backward = ops.pixel_nll_backward if decoder == "pixels" else ops.gaussian_nll_backward
    pairs = zip(decode_backward(saved_nll, d), ops.gaussian_kl_backward(saved_kl, d), strict=True)
    dmean, dlog_variance = (xp.where(first, at_0, later) for at_0, later in pairs)
    return dmean, dlog_variance


def prior_term(ops: Operations, process: GaussianProcess, x_0: Array) -> Array:
    """Return L_T of each sample in bits per dimension, (N,): how far q(x_{T−1} | x_0) is from N(0, I) (IDDPM eq. 7)."""
    xp = ops.xp
    alpha_bar = float(process.alpha_bar[-1])
    nothing = xp.zeros_like(x_0)
    kl, _ = ops.gaussian_kl(nothing, nothing, alpha_bar**0.5 * x_0, nothing + log1p(-alpha_bar))
    return xp.mean(kl, axis=tuple(range(1, x_0.ndim))) / log(2)
