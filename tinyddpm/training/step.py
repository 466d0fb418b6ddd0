"""One gradient of a training objective: Algorithm 1 of DDPM, for L_simple or what stands in its place."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.diffusion.objectives import Objective
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.nn import Condition, DropoutNoise, Gradients, Network, Weights
from tinyddpm.ops import Operations


def training_losses(
    objective: Objective,
    network: Network,
    ops: Operations,
    process: GaussianProcess,
    w: Weights,
    x_0: Array,
    t: Array,
    eps: Array,
    cond: Condition,
) -> Array:
    """Return the objective's losses, whose mean is the loss.

    With `Simple` it is L_simple = mean |eps − eps_θ(√alpha_bar_t x_0 + √(1 − alpha_bar_t) eps, t)|² (eq. 14).
    """
    x_t = process.q_sample(x_0, t, eps)
    out, _ = network.forward(ops, w, x_t, t, cond)
    losses, _ = objective.forward(ops, out, x_0, x_t, t, eps)
    return losses


def training_gradient(
    objective: Objective,
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
    share: float | Array = 1.0,
) -> Array:
    """Return the objective's losses and add the gradient of their mean to `dw`: line 5 of Algorithm 1.

    Args:
        objective: the loss of what the network says.
        network: says it.
        ops: operations that keep residuals.
        process: makes x_t.
        w: parameters by path.
        dw: gradients by path.
        x_0: (N, ...) data.
        t: (N,) times.
        eps: (N, ...) standard normal noise.
        cond: what the samples are conditioned on.
        noise: dropout masks.
        share: of the batch that these N samples are; their gradient counts that much. See `objectives` for (N,).
    """
    x_t = process.q_sample(x_0, t, eps)
    out, saved = network.forward(ops, w, x_t, t, cond, noise)
    losses, saved_loss = objective.forward(ops, out, x_0, x_t, t, eps)
    network.backward(saved, dw, objective.backward(ops, saved_loss, share))
    return losses
