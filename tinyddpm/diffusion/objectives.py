"""Objectives: what training makes small, as functions of a network's output with their gradients.

    losses, saved = objective.forward(ops, out, x_0, x_t, t, eps)
    dout          = objective.backward(ops, saved, share)

`losses` is (N,), and the loss is its mean. `share` is how much that mean counts, or a weight for each sample, (N,), the
loss then being the mean of the weighted losses.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.diffusion.likelihood import Decoder, bound_term, bound_term_backward
from tinyddpm.diffusion.parametrisation import Predict, dx_0_dprediction, halves, implied, target
from tinyddpm.diffusion.process import GaussianProcess, Table
from tinyddpm.errors import ConfigError, unknown
from tinyddpm.ops import Operations, Saved

Loss: TypeAlias = Literal["simple", "hybrid", "vlb"]
LOSSES: tuple[Loss, ...] = get_args(Loss)


class Objective(Protocol):
    """See the module."""

    def forward(self, ops: Operations, out: Array, x_0: Array, x_t: Array, t: Array, eps: Array) -> tuple[Array, Saved]:
        """Return the losses of the network's output for x_t = √alpha_bar_t x_0 + √(1 − alpha_bar_t) eps."""
        ...

    def backward(self, ops: Operations, saved: Saved, share: float | Array) -> Array:
        """Return the gradient that reaches the network's output."""
        ...


class Simple:
    """L_simple: the mean squared error of what is predicted, weighted by time (DDPM eq. 14).

    Args:
        process: the chain.
        predict: what the network predicts.
        weights: (T,) of a weighting; None for 1 everywhere.
    """

    def __init__(self, process: GaussianProcess, predict: Predict, weights: Table | None) -> None:
        self.process, self.predict = process, predict
        weighted = weights is not None and bool(np.any(weights != 1.0))
        self.weights = process.backend.asarray(weights, dtype=process.dtype) if weighted else None

    def forward(self, ops: Operations, out: Array, x_0: Array, x_t: Array, t: Array, eps: Array) -> tuple[Array, Saved]:
        """Return the weighted mean squared error of each sample, (N,)."""
        losses, saved = ops.mse_each(out, target(self.process, self.predict, x_0, t, eps))
        if self.weights is None:
            return losses, (saved, None, t.shape[0])
        weight = ops.xp.take(self.weights, t, axis=0)
        return weight * losses, (saved, weight, t.shape[0])

    def backward(self, ops: Operations, saved: Saved, share: float | Array) -> Array:
        """Return dout."""
        saved, weight, n = saved
        if weight is None and isinstance(share, float):
            return ops.mse_backward(saved, share)
        return ops.mse_each_backward(saved, share / n if weight is None else weight * (share / n))


class VariationalBound:
    """L_vlb with a learned variance, in bits per dimension: T L_t, whose mean over t is the bound (IDDPM eq. 4).

    L_T is left out: nothing depends on it. The factor T is that of IDDPM's code (`RESCALED_KL`).

    Args:
        process: the chain.
        predict: what the first half of the network's channels predicts; the second gives the variance (`halves`).
        decoder: see `bound_term`.
    """

    def __init__(self, process: GaussianProcess, predict: Predict, decoder: Decoder) -> None:
        self.process, self.predict, self.decoder = process, predict, decoder

    def forward(self, ops: Operations, out: Array, x_0: Array, x_t: Array, t: Array, eps: Array) -> tuple[Array, Saved]:
        """Return T L_t of each sample, (N,)."""
        process = self.process
        prediction, fraction = halves(out)
        x_0_hat, _ = implied(process, self.predict, x_t, t, prediction)
        mean, _ = process.q_posterior(x_0_hat, x_t, t)
        log_variance = process.p_log_variance(x_t, t, fraction)
        term, saved = bound_term(ops, process, self.decoder, x_0, x_t, t, mean, log_variance)
        return process.T * term, (saved, x_t, t, ops.xp.ones_like(term))

    def backward(self, ops: Operations, saved: Saved, share: float | Array) -> Array:
        """Return dout: that of the prediction, and that of the variance, side by side."""
        return ops.xp.concat(self.halves_backward(ops, saved, share), axis=-1)

    def halves_backward(self, ops: Operations, saved: Saved, share: float | Array) -> tuple[Array, Array]:
        """Return dprediction = dmean · c_0 · dx_0/dprediction, dv = dlog_variance · ½ (log beta − log beta-tilde)."""
        saved_term, x_t, t, ones = saved
        dmean, dlog_variance = bound_term_backward(ops, saved_term, ones * (self.process.T * share / t.shape[0]))
        low, high = self.process.log_variance_range(x_t, t)
        slope = self.process.posterior(x_t, t).c_0 * dx_0_dprediction(self.process, self.predict, x_t, t)
        return dmean * slope, dlog_variance * (high - low) / 2


class Hybrid:
    """L_hybrid = L_simple + λ L_vlb, where L_vlb trains the variance alone (IDDPM eq. 16).

    The mean's gradient from L_vlb is dropped. With λ = 0.001 and L_vlb = T L_t in bits per dimension this is what
    IDDPM's code computes as T / 1000 L_t (`RESCALED_MSE`).

    Args:
        simple: the loss of the prediction.
        bound: the loss of the variance.
        weight: λ.
    """

    def __init__(self, simple: Simple, bound: VariationalBound, weight: float) -> None:
        self.simple, self.bound, self.weight = simple, bound, weight

    def forward(self, ops: Operations, out: Array, x_0: Array, x_t: Array, t: Array, eps: Array) -> tuple[Array, Saved]:
        """Return the hybrid loss, (N,)."""
        prediction, _ = halves(out)
        simple, saved_simple = self.simple.forward(ops, prediction, x_0, x_t, t, eps)
        bound, saved_bound = self.bound.forward(ops, out, x_0, x_t, t, eps)
        return simple + self.weight * bound, (saved_simple, saved_bound)

    def backward(self, ops: Operations, saved: Saved, share: float | Array) -> Array:
        """Return dout: the prediction's from L_simple, the variance's from L_vlb."""
        saved_simple, saved_bound = saved
        dprediction = self.simple.backward(ops, saved_simple, share)
        _, dv = self.bound.halves_backward(ops, saved_bound, self.weight * share)
        return ops.xp.concat([dprediction, dv], axis=-1)


def learns_variance(loss: str) -> bool:
    """Whether a network trained with this loss has channels for the variance: twice those of the data."""
    return loss != "simple"


def make_objective(
    process: GaussianProcess, predict: Predict, loss: str, weights: Table | None, vlb_weight: float, decoder: Decoder
) -> Objective:
    """Return the objective of the loss called `loss`: "simple", "hybrid" or "vlb".

    Args:
        process: the chain.
        predict: what the network predicts.
        loss: which.
        weights: (T,) of a weighting, for the squared error, which "vlb" has none of; None for 1 everywhere.
        vlb_weight: λ of the hybrid loss.
        decoder: see `bound_term`.

    Raises:
        ConfigError: there is none of this name.
    """
    if loss not in LOSSES:
        raise ConfigError(unknown("loss", loss, LOSSES))
    simple, bound = Simple(process, predict, weights), VariationalBound(process, predict, decoder)
    objectives: dict[str, Objective] = {"simple": simple, "hybrid": Hybrid(simple, bound, vlb_weight), "vlb": bound}
    return objectives[loss]
