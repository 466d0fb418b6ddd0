"""Objectives: the losses that training minimises, functions of a network's output with their gradients.

    losses, saved = objective.forward(ops, out, batch)
    dout          = objective.backward(ops, saved, share)

`losses` is (N,), and the loss is its mean. `share` is a factor of that mean, a float, or one factor for each sample,
(N,): the loss then is the mean of the weighted losses.

An entry of group `tinyddpm.objectives` is a class, called as `(parametrisation, weights, decoder, *, <options>)`.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array
from tinyddpm.diffusion.likelihood import Decoder, bound_term, bound_term_backward
from tinyddpm.diffusion.parametrisation import Parametrisation, halves
from tinyddpm.diffusion.process import Table
from tinyddpm.errors import ConfigError
from tinyddpm.ops import Operations, Saved
from tinyddpm.ops.noising import Noised


class Objective(Protocol):
    """A loss with its gradient. Its attributes belong to the class, for they are read before there is an instance.

    Attributes:
        learned_variance: whether the network predicts the variance too, in twice the channels of the data (`halves`).
        weighted: whether it takes the weights of a weighting, (T,); otherwise it is given None.
        times: its default law of t, a name of group `tinyddpm.times`.
    """

    learned_variance: ClassVar[bool]
    weighted: ClassVar[bool]
    times: ClassVar[str]

    def forward(self, ops: Operations, out: Array, batch: Noised) -> tuple[Array, Saved]:
        """Return the losses of the network's output for a batch, (N,)."""
        ...

    def backward(self, ops: Operations, saved: Saved, share: float | Array) -> Array:
        """Return dout, the gradient with respect to the network's output."""
        ...


class Simple:
    """L_simple: the mean squared error of the prediction, weighted by time (DDPM eq. 14).

    Args:
        parametrisation: what the network predicts.
        weights: (T,) of a weighting; None for 1 everywhere.
        decoder: unused.
    """

    learned_variance: ClassVar[bool] = False
    weighted: ClassVar[bool] = True
    times: ClassVar[str] = "uniform"

    def __init__(self, parametrisation: Parametrisation, weights: Table | None, decoder: Decoder) -> None:
        self.parametrisation, process = parametrisation, parametrisation.process
        all_one = weights is None or bool(np.all(weights == 1.0))
        self.weights = None if all_one else process.backend.asarray(weights, dtype=process.dtype)

    def forward(self, ops: Operations, out: Array, batch: Noised) -> tuple[Array, Saved]:
        """Return the weighted mean squared error of each sample, (N,)."""
        n = out.shape[0]
        losses, saved = ops.mse(out, self.parametrisation.target(batch.x_0, batch.t, batch.eps))
        if self.weights is None:
            return losses, (saved, None, n)
        weight = ops.xp.take(self.weights, batch.t, axis=0)
        return weight * losses, (saved, weight, n)

    def backward(self, ops: Operations, saved: Saved, share: float | Array) -> Array:
        """Return dout."""
        saved, weight, n = saved
        return ops.mse_backward(saved, share / n if weight is None else weight * (share / n))


class VariationalBound:
    """L_vlb with a learned variance, in bits per dimension: T L_t, whose mean over t is the bound (IDDPM eq. 4).

    L_T is left out, for no weight changes it. The factor T is that of IDDPM's code (`RESCALED_KL`).

    L_t differs much between times, so t is drawn by importance, from past losses (IDDPM section 3.3).

    Args:
        parametrisation: what the first half of the network's channels predicts; the second gives the variance.
        weights: None: the bound has weights of its own.
        decoder: see `bound_term`.
    """

    learned_variance: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    times: ClassVar[str] = "history"

    def __init__(self, parametrisation: Parametrisation, weights: None, decoder: Decoder) -> None:
        self.parametrisation, self.process, self.decoder = parametrisation, parametrisation.process, decoder

    def forward(self, ops: Operations, out: Array, batch: Noised) -> tuple[Array, Saved]:
        """Return T L_t of each sample, (N,)."""
        process, (x_0, t, _, x_t) = self.process, batch
        prediction, fraction = halves(out)
        x_0_hat, _ = self.parametrisation.implied(x_t, t, prediction)
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
        slope = self.process.posterior(x_t, t).c_0 * self.parametrisation.slope(x_t, t)
        return dmean * slope, dlog_variance * (high - low) / 2


class Hybrid:
    """L_hybrid = L_simple + λ L_vlb, where L_vlb trains the variance alone (IDDPM eq. 16).

    The mean's gradient from L_vlb is dropped. With λ = 0.001 and L_vlb = T L_t in bits per dimension this is what
    IDDPM's code computes as T / 1000 L_t (`RESCALED_MSE`).

    Args:
        parametrisation: what the first half of the network's channels predicts; the second gives the variance.
        weights: (T,) of a weighting, for L_simple; None for 1 everywhere.
        decoder: see `bound_term`.
        vlb_weight: λ, from 0 on.

    Raises:
        ConfigError: λ is negative.
    """

    learned_variance: ClassVar[bool] = True
    weighted: ClassVar[bool] = True
    times: ClassVar[str] = "uniform"

    def __init__(
        self, parametrisation: Parametrisation, weights: Table | None, decoder: Decoder, *, vlb_weight: float = 0.001
    ) -> None:
        if not vlb_weight >= 0:
            raise ConfigError(f"vlb_weight is {vlb_weight}: give the factor of L_vlb, from 0 on (IDDPM uses 0.001)")
        self.simple = Simple(parametrisation, weights, decoder)
        self.bound = VariationalBound(parametrisation, None, decoder)
        self.weight = vlb_weight

    def forward(self, ops: Operations, out: Array, batch: Noised) -> tuple[Array, Saved]:
        """Return the hybrid loss, (N,)."""
        prediction, _ = halves(out)
        simple, saved_simple = self.simple.forward(ops, prediction, batch)
        bound, saved_bound = self.bound.forward(ops, out, batch)
        return simple + self.weight * bound, (saved_simple, saved_bound)

    def backward(self, ops: Operations, saved: Saved, share: float | Array) -> Array:
        """Return dout: the prediction's from L_simple, the variance's from L_vlb."""
        saved_simple, saved_bound = saved
        dprediction = self.simple.backward(ops, saved_simple, share)
        _, dv = self.bound.halves_backward(ops, saved_bound, self.weight * share)
        return ops.xp.concat([dprediction, dv], axis=-1)


def objective_class(name: str) -> type[Objective]:
    """Return the class registered as `name`, with the attributes of `Objective`.

    Raises:
        RegistryError: no such objective, or its plugin is broken.
        ConfigError: the class lacks one of these attributes.
    """
    kind: type[Objective] = registry.load("objectives", name)
    missing = [what for what in ("learned_variance", "weighted", "times") if not hasattr(kind, what)]
    if missing:
        raise ConfigError(f"objective {name!r} has no {' and no '.join(missing)}: its class must define it")
    return kind
