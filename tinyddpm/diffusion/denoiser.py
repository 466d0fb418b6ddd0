"""A denoiser: the function of (x_t, t) that samplers are given, made of a network or of anything else."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from tinyddpm.backend import Array
from tinyddpm.backend.workers import Workers, parts
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.nn import Condition, Network, Weights
from tinyddpm.ops import Operations


class Prediction(NamedTuple):
    """What a denoiser says of x_t: the data and the noise it is made of, each of x_t's shape. One implies the other."""

    x_0: Array
    eps: Array


class Denoiser(Protocol):
    """A function of noisy samples and one time, 0-based."""

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...)."""
        ...


class NetworkDenoiser:
    """A network that predicts eps, as a denoiser.

    Args:
        network: predicts eps.
        ops: operations without training: nothing is kept.
        w: parameters by path.
        process: relates x_t, x_0 and eps.
        cond: what the samples are conditioned on.
        clip: keep the predicted x_0 within ±1, the range of images, as DDPM does; eps follows it.
        workers: the threads that share each batch.
    """

    def __init__(
        self,
        network: Network,
        ops: Operations,
        w: Weights,
        process: GaussianProcess,
        cond: Condition,
        clip: bool,
        workers: Workers,
    ) -> None:
        self.network, self.ops, self.w = network, ops, w
        self.process, self.cond, self.clip, self.workers = process, cond, clip, workers

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...)."""
        xp = self.ops.xp
        n = x_t.shape[0]
        steps = self.ops.backend.asarray([t] * n, dtype=xp.int64)

        def predicted(part: slice) -> Array:
            cond = {kind: value[part, ...] for kind, value in self.cond.items()}
            return self.network.forward(self.ops, self.w, x_t[part, ...], steps[part], cond)[0]

        eps = xp.concat(self.workers.map(predicted, parts(n, self.workers.threads)))
        x_0 = self.process.predict_x0(x_t, t, eps)
        if not self.clip:
            return Prediction(x_0, eps)
        x_0 = xp.clip(x_0, -1.0, 1.0)
        return Prediction(x_0, self.process.predict_eps(x_t, t, x_0))
