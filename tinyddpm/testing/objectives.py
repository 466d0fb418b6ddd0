"""The conformance kit for objectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Backend, load_backend
from tinyddpm.diffusion.objectives import Objective
from tinyddpm.diffusion.parametrisation import make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.ops import Operations, Saved
from tinyddpm.ops.noising import Noised
from tinyddpm.testing.gradients import HostArray, check_projection, read_only
from tinyddpm.testing.plugin import blamed, resolve

N = C = 4
"""Numbers of samples and channels. They are equal, so that weights broadcast along the wrong axis fail by value."""

T = 20
TIMES = np.array([0, 19, 7, 0])
WEIGHTS = np.linspace(0.5, 2, T)


def check_objective(
    objective: str | Callable[..., Objective], *, detached: bool = False, rtol: float = 1e-6, **options: Any
) -> None:
    """Check that an objective keeps its contract, with these options, for networks that predict eps and v.

    - Its class has the attributes `learned_variance`, `weighted` and `times`, the name of a law of t.
    - Losses have shape (N,), and each depends on its sample alone.
    - If it is `weighted`, the weight of a time changes the losses at that time.
    - The gradient agrees with central differences of mean(share · losses), for a number and for an array (N,) as share.
    - The gradient depends on `saved` alone, also when two batches take turns.
    - No input is written to, and float32 stays float32.

    Then on array-api-strict, where it is installed, against the float64 results.

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
        runner = _Runner(kind, predict, options, f"{what} on {predict}")
        rng = np.random.default_rng(0)
        out, batch = _drawn(runner, rng)
        _check_losses(runner, out, batch)
        _check_weights(runner, out, batch)
        _check_gradients(runner, out, batch, C if detached and learned else 0, rng, rtol)
        _check_stateless(runner, out, batch)
        _check_float32(runner, out, batch)
        _check_standard(runner, out, batch)


class _Runner:
    """An objective on one backend, for a network that predicts `predict`. Its errors become an AssertionError."""

    def __init__(
        self,
        kind: Any,
        predict: str,
        options: dict[str, Any],
        what: str,
        weights: HostArray = WEIGHTS,
        backend: Backend | None = None,
        dtype: str = "float64",
    ) -> None:
        self.kind, self.predict, self.options, self.what = kind, predict, options, what
        self.backend = backend or load_backend("numpy")
        self.process = GaussianProcess(self.backend, make_betas("cosine", T), dtype=getattr(self.backend.xp, dtype))
        self.parametrisation = make_parametrisation(self.process, predict)
        self.made: Objective = kind(self.parametrisation, weights if kind.weighted else None, "points", **options)

    def changed(self, **changes: Any) -> _Runner:
        """Return the same objective with other weights, on another backend, or in another type."""
        return _Runner(self.kind, self.predict, self.options, self.what, **changes)

    def forward(self, out: HostArray, batch: Noised, training: bool = True) -> tuple[HostArray, Saved]:
        """Return the losses, on the host, and the residuals."""
        there = map(self.backend.asarray, batch)
        with blamed(f"{self.what}: forward with read-only inputs", self.backend):
            losses, saved = self.made.forward(self._ops(training), self.backend.asarray(out), Noised(*there))
        return self.backend.to_numpy(losses), saved

    def backward(self, saved: Saved, share: float | HostArray) -> HostArray:
        """Return the gradient, on the host; an array `share` is read-only."""
        there = share if isinstance(share, float) else self.backend.asarray(read_only({"share": share})["share"])
        with blamed(f"{self.what}: backward with read-only inputs", self.backend):
            dout = self.made.backward(self._ops(True), saved, there)
        return self.backend.to_numpy(dout)

    def _ops(self, training: bool) -> Operations:
        return Operations(self.backend, training)


def _drawn(runner: _Runner, rng: np.random.Generator) -> tuple[HostArray, Noised]:
    """Return a network's output near the target, and the batch, both read-only."""
    x_0, eps = rng.standard_normal((2, N, 3, C))
    batch = Noised(x_0, TIMES, eps, runner.process.q_sample(x_0, TIMES, eps))
    out = runner.parametrisation.target(x_0, TIMES, eps) + 0.3 * rng.standard_normal(x_0.shape)
    if runner.made.learned_variance:
        out = np.concatenate([out, rng.uniform(-0.8, 0.8, x_0.shape)], axis=-1)
    return read_only({"out": out})["out"], Noised(**read_only(batch._asdict()))


def _cut(out: HostArray, batch: Noised, rows: slice) -> tuple[HostArray, Noised]:
    return out[rows], Noised(*(each[rows] for each in batch))


def _check_losses(runner: _Runner, out: HostArray, batch: Noised) -> None:
    """Check the shape of the losses, and that each depends on its sample alone."""
    losses, what = runner.forward(out, batch, training=False)[0], runner.what
    assert np.shape(losses) == (N,), f"{what}: losses have shape {np.shape(losses)}, there are {N} samples"
    assert np.all(np.isfinite(losses)), f"{what}: a loss is not finite"
    for n in range(N):
        alone, _ = runner.forward(*_cut(out, batch, slice(n, n + 1)), training=False)
        assert np.allclose(alone, losses[n], rtol=1e-9), f"{what}: the loss of a sample depends on the others"


def _check_weights(runner: _Runner, out: HostArray, batch: Noised) -> None:
    """Check that the weight of a time changes the losses at that time."""
    if not runner.made.weighted:
        return
    losses, _ = runner.forward(out, batch)
    for t in sorted(set(TIMES)):
        found, _ = runner.changed(weights=np.where(np.arange(T) == t, 2 * WEIGHTS, WEIGHTS)).forward(out, batch)
        same = (found == losses)[t == TIMES]
        assert not same.any(), f"{runner.what}: the weight of t = {t} does not change the loss of a sample at t"


def _check_gradients(
    runner: _Runner, out: HostArray, batch: Noised, first: int, rng: np.random.Generator, rtol: float
) -> None:
    """Check the gradient of the channels from `first` on, for one share and for a share of each sample."""
    what, weight = runner.what, rng.uniform(0.5, 2, N)

    def loss(share: float | HostArray) -> Callable[[HostArray], HostArray]:
        def value(last: HostArray) -> HostArray:
            whole = np.concatenate([out[..., :first], last], axis=-1)
            return np.asarray(np.mean(share * runner.forward(whole, batch, training=False)[0]))

        return value

    for share, name in ((0.3, "with a share"), (weight, "with a weight for each sample")):
        dout = runner.backward(runner.forward(out, batch)[1], share)
        assert dout.shape == out.shape, f"{what}: the gradient {name} has shape {dout.shape}, the output {out.shape}"
        try:
            check_projection(loss(share), out[..., first:], np.ones(()), dout[..., first:], rng, "the output", rtol)
        except AssertionError as error:
            raise AssertionError(f"{what}, {name}: {error}") from error
    rows = [_cut(out, batch, slice(n, n + 1)) for n in range(N)]
    alone = [runner.backward(runner.forward(*row)[1], w / N) for row, w in zip(rows, weight.tolist(), strict=True)]
    each = np.concatenate(alone)
    assert np.allclose(each, dout, rtol=1e-9), f"{what}: a weight for each sample does not scale its gradient alone"


def _check_stateless(runner: _Runner, out: HostArray, batch: Noised) -> None:
    """Check that the gradient is the same after another batch's forward."""
    apart = runner.backward(runner.forward(out, batch)[1], 0.3)
    _, saved = runner.forward(out, batch)
    runner.forward(*_cut(out, batch, slice(None, None, -1)))
    same = np.array_equal(runner.backward(saved, 0.3), apart)
    assert same, f"{runner.what}: the gradient differs after another forward: keep residuals in saved, not on self"


def _check_float32(runner: _Runner, out: HostArray, batch: Noised) -> None:
    """Check that losses and gradients of float32 are float32."""
    single = runner.changed(dtype="float32")
    real = {name: each.astype(np.float32) for name, each in batch._asdict().items() if name != "t"}
    losses, saved = single.forward(out.astype(np.float32), batch._replace(**real))
    for share in (0.3, np.ones(N, np.float32)):
        for array, name in ((losses, "losses are"), (single.backward(saved, share), "the gradient is")):
            assert array.dtype == np.float32, f"{runner.what}: {name} {array.dtype} for a float32 output"


def _check_standard(runner: _Runner, out: HostArray, batch: Noised) -> None:
    """Check that the objective needs only the array API standard, if array-api-strict is installed."""
    try:
        import array_api_strict
    except ImportError:
        return
    strict, share = runner.changed(backend=Backend(array_api_strict)), np.linspace(0.5, 1, N)
    (losses, saved), (found, theirs) = runner.forward(out, batch), strict.forward(out, batch)
    same = np.allclose(found, losses, rtol=1e-9)
    same = same and np.allclose(strict.backward(theirs, share), runner.backward(saved, share), rtol=1e-9, atol=1e-12)
    assert same, f"{runner.what}: losses or gradients differ on array-api-strict"
