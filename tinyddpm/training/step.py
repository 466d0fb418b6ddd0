"""One gradient of a training objective: Algorithm 1 of DDPM, for L_simple or another objective."""

from __future__ import annotations

from tinyddpm.backend import Array, Random
from tinyddpm.backend.random import Samples, Step
from tinyddpm.conditions import Conditioned, Given
from tinyddpm.diffusion.objectives import Objective
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.model.model import Model
from tinyddpm.nn import DropoutNoise, Gradients, Weights
from tinyddpm.ops import Operations
from tinyddpm.ops.noising import Noised
from tinyddpm.transforms import Transforms


def noised(process: GaussianProcess, x_0: Array, t: Array, eps: Array) -> Noised:
    """Return the samples x_0 noised to the times t: x_t = √alpha_bar_t x_0 + √(1 − alpha_bar_t) eps."""
    return Noised(x_0, t, eps, process.q_sample(x_0, t, eps))


def drawn(
    model: Model, transforms: Transforms, ops: Operations, random: Random, step: Step, samples: Samples, data: Array,
    places: Array = None, t: Array = None,
) -> tuple[Noised, Array]:  # fmt: skip
    """Return training samples, transformed and then noised: lines 2 to 4 of Algorithm 1.

    The second result is what the transforms did to each sample, (N, k), or None without transforms. For the arguments
    see `Noising.noised`.
    """
    flip, levels = model.config.data.flip, model.process.levels
    if not transforms:
        return ops.noised(random, step, samples, data, levels, places, t, flip), None
    x_0, done = transforms(random, step, samples, ops.x_0(random, step, samples, data, places, flip))
    return ops.noised(random, step, samples, x_0, levels, t=t), done


def training_losses(
    objective: Objective, network: Conditioned, ops: Operations, w: Weights, batch: Noised, given: Given
) -> Array:
    """Return the objective's loss of each sample, (N,); their mean is the loss.

    With `Simple` it is L_simple = mean |eps − eps_θ(√alpha_bar_t x_0 + √(1 − alpha_bar_t) eps, t)|² (eq. 14).
    """
    out, _ = network.forward(ops, w, batch.x_t, batch.t, given)
    losses, _ = objective.forward(ops, out, batch)
    return losses


def training_gradient(
    objective: Objective,
    network: Conditioned,
    ops: Operations,
    w: Weights,
    dw: Gradients,
    batch: Noised,
    given: Given,
    noise: DropoutNoise,
    share: float | Array = 1.0,
) -> Array:
    """Return the loss of each sample, (N,), and add the gradient of their mean to `dw`: line 5 of Algorithm 1.

    Args:
        objective: the loss of the network's output.
        network: the network with its condition.
        ops: operations that keep residuals.
        w: parameters by path.
        dw: gradients by path.
        batch: N noised samples.
        given: what the samples are conditioned on.
        noise: dropout masks.
        share: the fraction of the whole batch that these N samples are, which scales their gradient; or (N,), that
            fraction times a weight for each sample.
    """
    out, saved = network.forward(ops, w, batch.x_t, batch.t, given, noise)
    losses, saved_loss = objective.forward(ops, out, batch)
    network.backward(saved, dw, objective.backward(ops, saved_loss, share))
    return losses
