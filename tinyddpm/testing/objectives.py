"""The conformance kit for objectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import load_backend
from tinyddpm.diffusion.objectives import Objective
from tinyddpm.diffusion.parametrisation import make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.ops import Operations
from tinyddpm.ops.noising import Noised
from tinyddpm.testing.gradients import HostArray, check_projection
from tinyddpm.testing.plugin import resolve

N = C = 4
"""Numbers of samples and channels. They are equal, so that weights broadcast along the wrong axis fail by value."""

T = 20
TIMES = np.array([0, 19, 7, 0])


def check_objective(
    objective: str | Callable[..., Objective], *, detached: bool = False, rtol: float = 1e-6, **options: Any
) -> None:
    """Check that an objective keeps its contract, with these options, for networks that predict eps and v.

    - Its class has the attributes `learned_variance`, `weighted` and `times`, the name of a law of t.
    - Losses have shape (N,), and each depends on its sample alone.
    - The gradient agrees with central differences of mean(share · losses), for a number and for an array (N,) as share.
    - No input is written to.

    Args:
        objective: its registered name, or the class.
        detached: whether the gradient of the prediction deliberately differs from the loss's, as for `hybrid`. That of
            the variance is checked all the same.
        rtol: relative tolerance of the projection.
        options: its options.

    Raises:
        AssertionError: the objective breaks its contract; the line names the property.
    """
    kind, what = resolve("objectives", objective, arguments=3)
    learned, weighted = getattr(kind, "learned_variance", None), getattr(kind, "weighted", None)
    assert isinstance(learned, bool), f"{what}: learned_variance must be True or False, on its class"
    assert isinstance(weighted, bool), f"{what}: weighted must be True or False, on its class"
    laws = {entry.name for entry in registry.entries("times")}
    assert getattr(kind, "times", None) in laws, f"{what}: times must name a law of t, on its class: {sorted(laws)}"
    for predict in ("eps", "v"):
        process = GaussianProcess(load_backend("numpy"), make_betas("cosine", T), dtype=np.float64)
        parametrisation = make_parametrisation(process, predict)
        weights = np.linspace(0.5, 2, T) if weighted else None
        made = kind(parametrisation, weights, "points", **options)
        rng = np.random.default_rng(0)
        x_0, eps = rng.standard_normal((2, N, 3, C))
        batch = Noised(x_0, TIMES, eps, process.q_sample(x_0, TIMES, eps))
        out = parametrisation.target(x_0, TIMES, eps) + 0.3 * rng.standard_normal(x_0.shape)
        if learned:
            out = np.concatenate([out, rng.uniform(-0.8, 0.8, x_0.shape)], axis=-1)
        for array in (out, *batch):
            array.flags.writeable = False
        _check_losses(made, out, batch, f"{what} on {predict}")
        _check_gradients(made, out, batch, f"{what} on {predict}", C if detached and learned else 0, rng, rtol)


def _check_losses(made: Objective, out: HostArray, batch: Noised, what: str) -> None:
    """Check the shape of the losses, and that each depends on its sample alone."""
    ops = Operations(load_backend("numpy"))
    losses = made.forward(ops, out, batch)[0]
    assert np.shape(losses) == (N,), f"{what}: losses have shape {np.shape(losses)}, there are {N} samples"
    assert np.all(np.isfinite(losses)), f"{what}: a loss is not finite"
    for n in range(N):
        alone = made.forward(ops, out[n : n + 1], Noised(*(each[n : n + 1] for each in batch)))[0]
        assert np.allclose(alone, losses[n], rtol=1e-9), f"{what}: the loss of a sample depends on the others"


def _check_gradients(
    made: Objective, out: HostArray, batch: Noised, what: str, first: int, rng: np.random.Generator, rtol: float
) -> None:
    """Check the gradient of the channels from `first` on, for one share and for a share of each sample."""
    ops = Operations(load_backend("numpy"), training=True)
    weight = rng.uniform(0.5, 2, N)

    def loss(share: HostArray) -> Callable[[HostArray], HostArray]:
        def value(last: HostArray) -> HostArray:
            whole = np.concatenate([out[..., :first], last], axis=-1)
            return np.asarray(np.mean(share * made.forward(ops, whole, batch)[0]))

        return value

    for share, name in ((0.3, "with a share"), (weight, "with a weight for each sample")):
        dout = np.asarray(made.backward(ops, made.forward(ops, out, batch)[1], share))
        assert dout.shape == out.shape, f"{what}: the gradient {name} has shape {dout.shape}, the output {out.shape}"
        try:
            check_projection(
                loss(np.asarray(share)), out[..., first:], np.ones(()), dout[..., first:], rng, "the output", rtol
            )
        except AssertionError as error:
            raise AssertionError(f"{what}, {name}: {error}") from error
    alone = [
        made.backward(ops, made.forward(ops, out[n : n + 1], Noised(*(each[n : n + 1] for each in batch)))[1], w / N)
        for n, w in enumerate(weight.tolist())
    ]
    each = np.concatenate(alone)
    assert np.allclose(each, dout, rtol=1e-9), f"{what}: a weight for each sample does not scale its gradient alone"
