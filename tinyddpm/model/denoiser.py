"""A network as a denoiser for samplers, and as one with a derivative for the probability flow's likelihood."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tinyddpm.backend import Array
from tinyddpm.backend.workers import Workers, parts
from tinyddpm.conditions import Conditioned, Given
from tinyddpm.diffusion.denoiser import Prediction
from tinyddpm.diffusion.parametrisation import Parametrisation, halves
from tinyddpm.diffusion.process import checked_time
from tinyddpm.errors import ConfigError
from tinyddpm.guidance import Lone, Pair, Side
from tinyddpm.nn import Weights
from tinyddpm.ops import Operations, Saved, load_operations

Result = TypeVar("Result")


class NetworkDenoiser:
    """A network as a denoiser, and as a `Side` of guidance. Its predictions are not clipped.

    Args:
        network: the network with its condition.
        ops: operations that keep no residuals.
        w: parameters by path.
        parametrisation: relates the network's output to x_0 and eps.
        given: what the samples are conditioned on.
        workers: the threads that share each batch.
        learned_variance: whether the second half of the network's channels is the variance.
    """

    def __init__(
        self,
        network: Conditioned,
        ops: Operations,
        w: Weights,
        parametrisation: Parametrisation,
        given: Given,
        workers: Workers,
        learned_variance: bool = False,
    ) -> None:
        self.network, self.ops, self.w = network, ops, w
        self.parametrisation, self.process = parametrisation, parametrisation.process
        self.given, self.workers, self.learned_variance = given, workers, learned_variance
        # Not a method: a denoiser that refers to itself keeps its recordings until the garbage collector comes.
        self._forward = ops.backend.captured(partial(_output, network, ops, w, tuple(given)))

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...).

        Raises:
            ConfigError: t is outside 0 … T − 1, or the condition has fewer samples than x_t.
        """
        _check_rows(self.given, x_t)
        return self._predicted(x_t, t, self.given)

    def told(self, given: Given) -> NetworkDenoiser:
        """Return a denoiser with the same network and weights under another condition."""
        return NetworkDenoiser(
            self.network, self.ops, self.w, self.parametrisation, given, self.workers, self.learned_variance
        )

    def beside(self, other: Side) -> Pair:
        """Return a function that asks this denoiser and `other`, in one batch of 2N if they have the same weights."""
        if not isinstance(other, NetworkDenoiser) or other.w is not self.w:
            return Lone(self.process, self).beside(other)
        xp, others = self.ops.xp, other.given

        def both(x_t: Array, t: int) -> tuple[Prediction, Prediction]:
            n = x_t.shape[0]
            _check_rows(self.given, x_t)
            given = {kind: xp.concat([own[:n, ...], others[kind][:n, ...]]) for kind, own in self.given.items()}
            found = self._predicted(xp.concat([x_t, x_t]), t, given)
            return found.rows(slice(n)), found.rows(slice(n, 2 * n))

        return both

    def _predicted(self, x_t: Array, t: int, given: Given) -> Prediction:
        xp, t = self.ops.xp, checked_time(t, self.process.T)
        n = x_t.shape[0]
        steps = xp.full((n,), t, dtype=xp.int64, device=self.ops.backend.device)

        def predicted(part: slice) -> Array:
            return self._forward(x_t[part, ...], steps[part], *(value[part, ...] for value in given.values()))[0]

        out = xp.concat(self.workers.map(predicted, parts(n, self.workers.threads)))
        prediction, fraction = halves(out) if self.learned_variance else (out, None)
        x_0, eps = self.parametrisation.implied(x_t, t, prediction)
        return Prediction(x_0, eps, fraction)


def _output(
    network: Conditioned, ops: Operations, w: Weights, names: tuple[str, ...], x_t: Array, t: Array, *given: Array
) -> tuple[Array]:
    """Return the network's output for x_t and t, under the condition whose columns of these names are `given`."""
    return (network.forward(ops, w, x_t, t, dict(zip(names, given, strict=True)))[0],)


def _check_rows(given: Given, x_t: Array) -> None:
    """Raise ConfigError if a condition has fewer samples than x_t: its rows might be broadcast to samples of others."""
    for column in given.values():
        if column.shape[0] < x_t.shape[0]:
            raise ConfigError(f"x_t has {x_t.shape[0]} samples, and its condition {column.shape[0]}: give one for each")


class NetworkFlow:
    """A network as a `DifferentiableDenoiser`, by its hand-written backward.

    Args:
        denoiser: the network with its weights, parametrisation and condition.
    """

    def __init__(self, denoiser: NetworkDenoiser) -> None:
        self.denoiser = denoiser
        self.training_ops = load_operations(denoiser.ops.backend, training=True)

    def eps(self, x_t: Array, t: int) -> Array:
        """Return the predicted eps, (N, ...)."""
        of_x, of_out = self.denoiser.parametrisation.eps_share(x_t, t)

        def predicted(part: slice) -> Array:
            return of_x * x_t[part, ...] + of_out * self._forward(self.denoiser.ops, x_t, t, part)[0]

        return self.denoiser.ops.xp.concat(self._map(predicted, x_t))

    def eps_and_vjp(self, x_t: Array, t: int, v: Array) -> tuple[Array, Array]:
        """Return eps = a x_t + b out and vᵀ ∂eps/∂x_t = a v + (b v)ᵀ ∂out/∂x_t, its last term by the backward pass."""
        xp, w = self.training_ops.xp, self.denoiser.w
        of_x, of_out = self.denoiser.parametrisation.eps_share(x_t, t)

        def linearised(part: slice) -> tuple[Array, Array]:
            out, saved = self._forward(self.training_ops, x_t, t, part)
            dout = of_out * v[part, ...]
            if self.denoiser.learned_variance:
                dout = xp.concat([dout, xp.zeros_like(dout)], axis=-1)
            unused = {path: xp.zeros_like(parameter, dtype=x_t.dtype) for path, parameter in w.items()}
            dx = self.denoiser.network.backward(saved, unused, dout)
            return of_x * x_t[part, ...] + of_out * out, of_x * v[part, ...] + dx

        eps, vjp = zip(*self._map(linearised, x_t), strict=True)
        return xp.concat(eps), xp.concat(vjp)

    def _forward(self, ops: Operations, x_t: Array, t: int, part: slice) -> tuple[Array, Saved]:
        """Return the network's prediction for a part of the batch, without the variance, and the residuals."""
        x = x_t[part, ...]
        steps = ops.xp.full((x.shape[0],), t, dtype=ops.xp.int64, device=ops.backend.device)
        given = {name: value[part, ...] for name, value in self.denoiser.given.items()}
        out, saved = self.denoiser.network.forward(ops, self.denoiser.w, x, steps, given)
        return (halves(out)[0] if self.denoiser.learned_variance else out), saved

    def _map(self, function: Callable[[slice], Result], x_t: Array) -> list[Result]:
        workers = self.denoiser.workers
        return workers.map(function, parts(x_t.shape[0], workers.threads))
