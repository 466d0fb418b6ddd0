"""One gradient of L_simple: Algorithm 1 of DDPM."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.nn import Condition, DropoutNoise, Gradients, Network, Weights
from tinyddpm.ops import Operations


def l_simple(
    network: Network,
    ops: Operations,
    process: GaussianProcess,
    w: Weights,
    x_0: Array,
    t: Array,
    eps: Array,
    cond: Condition,
) -> Array:
    """Return L_simple = mean |eps − eps_θ(√alpha_bar_t x_0 + √(1 − alpha_bar_t) eps, t)|² (eq. 14), a 0-d array."""
    eps_hat, _ = network.forward(ops, w, process.q_sample(x_0, t, eps), t, cond)
    loss, _ = ops.mse(eps_hat, eps)
    return loss


def l_simple_gradient(
    network: Network,
    ops: Operations,
    process: GaussianProcess,
    w: Weights,
    dw: Gradients,
    x_0: Array,
    t: Array,
    eps: Array,
    cond: Condition,
    noise: DropoutNoise,
    share: float = 1.0,
) -> Array:
    """Return L_simple and add its gradient to `dw`: line 5 of Algorithm 1.

    Args:
        network: predicts eps.
        ops: operations that keep residuals.
        process: makes x_t.
        w: parameters by path.
        dw: gradients by path.
        x_0: (N, ...) data.
        t: (N,) times.
        eps: (N, ...) standard normal noise.
        cond: what the samples are conditioned on.
        noise: dropout masks.
        share: of the batch that these N samples are; their gradient counts that much.
    """
    x_t = process.q_sample(x_0, t, eps)
    eps_hat, saved = network.forward(ops, w, x_t, t, cond, noise)
    loss, saved_loss = ops.mse(eps_hat, eps)
    network.backward(saved, dw, ops.mse_backward(saved_loss, share))
    return loss
