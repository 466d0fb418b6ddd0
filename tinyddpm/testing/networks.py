"""The conformance kit for networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any, TypeAlias

import numpy as np

from tinyddpm.backend import Backend, load_backend
from tinyddpm.conditions import Condition
from tinyddpm.errors import ConfigError
from tinyddpm.nn import DropoutNoise, Layout, Network, Told, Widths
from tinyddpm.ops import Saved, load_operations
from tinyddpm.testing.gradients import HostArray, check_projection, check_zero, direction, read_only
from tinyddpm.testing.plugin import blamed, resolve

TIMES = (0, 37, 931)
"""Times t of the samples in a batch: the first, a small and a large one."""

SEED = 20

OFFERED = Widths(vector=0, tokens=5, image=3)
"""Widths of the tokens and the image that a network is built for; the network chooses the width of the vector."""

LENGTH = 4
"""Number of tokens of a sample."""


def check_network(
    factory: str | Callable[..., Network],
    sample_shape: tuple[int, ...] = (8, 8, 2),
    out_channels: int = 2,
    exempt: Sequence[str] = (),
    **options: Any,
) -> None:
    """Check that a network keeps its contract: parameters, shapes, types, gradients, purity.

    The network gets every part of `Told` that it takes. All parameters are random, because a layer that starts at zero
    would hide the gradients of others. In float64 on NumPy, with read-only inputs, weights and dy, and with dropout if
    the network has it:

    - The prediction depends on t.
    - The gradients of every parameter, of x and of the parts of `Told` agree with central differences at rtol 1e-6, and
      none is zero.
    - Masked tokens do not change the prediction, and their gradient is zero.
    - Gradients are added to the buffer, and no residuals are kept without training.
    - The same call gives the same bits, also when two passes are interleaved, and samples do not depend on their batch.
    - Gradients have the same bits when blocks are recomputed in the backward pass.

    Then in float32, and on array-api-strict where it is installed, against the float64 results. A network that is built
    without conditions, and told nothing, has a prediction and gradients too.

    Args:
        factory: its registered name, or the callable `(sample_shape, told, out_channels, **options) -> Network`.
        sample_shape: shape of one sample.
        out_channels: number of channels to predict.
        exempt: patterns (fnmatch) of parameter paths whose gradient is truly zero, and is checked to be. An example is
            "*/k/b": the bias of keys shifts all scores of a query alike, which softmax ignores.
        options: options of the network.

    Raises:
        AssertionError: the network breaks its contract; the line names the parameter path or the property.
    """
    build, what = resolve("networks", factory, arguments=3)
    network = build(sample_shape, OFFERED, out_channels, **options)
    _check_takes(network, what)
    _check_parameters(network, exempt, what)
    batch, other = (_draw_batch(network, sample_shape, out_channels, seed) for seed in (SEED, SEED + 1))
    host = _Runner(network, load_backend("numpy"), what)
    _check_forward(host, batch)
    _check_time(host, batch)
    _check_gradients(host, batch, exempt)
    _check_accumulation(host, batch)
    _check_stateless(host, batch, other)
    _check_recomputed(host, batch)
    _check_samples_apart(host, batch)
    _check_float32(host, batch)
    _check_standard(host, batch)
    _check_mask(host, batch)
    silent = build(sample_shape, Widths(), out_channels, **options)
    untold = replace(_draw_batch(silent, sample_shape, out_channels, SEED), told={})
    _check_untold(_Runner(silent, host.backend, f"{what}, told nothing"), untold)


def random_weights(network: Network | Condition, seed: int = SEED) -> dict[str, HostArray]:
    """Return random float64 weights by path.

    Their mean is the parameter's initial value if that is constant, else 0. Their variance is 1 / fan-in, for vectors
    1/4.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for parameter in network.parameters:
        centre = parameter.init.value if parameter.init.law == "constant" else 0.0
        spread = 0.5 if len(parameter.shape) == 1 else prod(parameter.shape[:-1]) ** -0.5
        weights[parameter.path] = centre + spread * rng.standard_normal(parameter.shape)
    return weights


@dataclass(frozen=True)
class _Batch:
    """The inputs of a network, as read-only arrays on the host."""

    w: dict[str, HostArray]
    x: HostArray
    t: HostArray
    told: dict[str, HostArray]
    dout: HostArray
    samples: HostArray

    def one(self, i: int) -> _Batch:
        """Return the batch of sample i alone."""
        row = slice(i, i + 1)
        told = {part: values[row] for part, values in self.told.items()}
        return _Batch(self.w, self.x[row], self.t[row], told, self.dout[row], self.samples[row])

    def astype(self, dtype: Any) -> _Batch:
        """Return the batch with its floating-point arrays in another type."""
        real = read_only({"x": self.x.astype(dtype), "dout": self.dout.astype(dtype)})
        w = read_only({path: array.astype(dtype) for path, array in self.w.items()})
        told = {part: array.astype(dtype) for part, array in self.told.items() if part != "mask"}
        return replace(self, w=w, x=real["x"], dout=real["dout"], told={**self.told, **read_only(told)})


_Gradients: TypeAlias = tuple[HostArray, dict[str, HostArray], dict[str, HostArray]]


@dataclass(frozen=True)
class _Result:
    """The prediction and the gradients of one forward and backward in training, on the host."""

    out: HostArray
    dx: HostArray
    dw: dict[str, HostArray]
    dtold: dict[str, HostArray]

    def arrays(self) -> dict[str, HostArray]:
        """Return all arrays by the names that messages use."""
        gradients = {f"gradient of {path}": gradient for path, gradient in self.dw.items()}
        gradients |= {f"gradient of the {part} told": gradient for part, gradient in self.dtold.items()}
        return {"the prediction": self.out, "dx": self.dx, **gradients}


class _Runner:
    """A network on one backend. Errors that it raises become an AssertionError that names the call."""

    def __init__(self, network: Network, backend: Backend, what: str) -> None:
        self.network, self.backend, self.what = network, backend, what
        self.layout = Layout(network.parameters)

    def forward(
        self, batch: _Batch, training: bool = False, dropout: bool = True, recompute: bool = False
    ) -> tuple[HostArray, Saved]:
        """Return the prediction, on the host, and the network's residuals."""
        ops = load_operations(self.backend, training, recompute)
        w, told = self._on_device(batch.w), Told(**self._on_device(batch.told))
        x, t = map(self.backend.asarray, (batch.x, batch.t))
        noise = DropoutNoise(self.backend.random(SEED), 0, batch.samples) if dropout else None
        with blamed(f"{self.what}: forward with read-only inputs and weights", self.backend):
            out, saved = self.network.forward(ops, w, x, t, told, noise)
        return self.backend.to_numpy(out), saved

    def backward(self, saved: Saved, batch: _Batch, start: float = 0.0) -> _Gradients:
        """Return dx, the gradient buffer by path, whose elements were `start` before, and dtold by part."""
        buffer = self.backend.asarray(np.full(self.layout.size, start, batch.dout.dtype))
        views = self.layout.views(buffer, self.backend.xp)
        with blamed(f"{self.what}: backward with a read-only dout", self.backend):
            dx, dtold = self.network.backward(saved, dict(views), self.backend.asarray(batch.dout))
        parts = {part: gradient for part, gradient in dtold._asdict().items() if part in batch.told and part != "mask"}
        missing = [part for part, gradient in parts.items() if gradient is None]
        assert not missing, f"{self.what}: backward returns no gradient of the {missing[0]} told"
        return self.backend.to_numpy(dx), self._on_host(views), self._on_host(parts)

    def both(self, batch: _Batch, start: float = 0.0) -> _Result:
        """Return the result of a forward and a backward in training."""
        out, saved = self.forward(batch, training=True)
        return _Result(out, *self.backward(saved, batch, start))

    def _on_device(self, arrays: dict[str, HostArray]) -> dict[str, Any]:
        return {name: self.backend.asarray(array) for name, array in arrays.items()}

    def _on_host(self, arrays: dict[str, Any]) -> dict[str, HostArray]:
        return {name: self.backend.to_numpy(array) for name, array in arrays.items()}


def _draw_batch(network: Network, sample_shape: tuple[int, ...], out_channels: int, seed: int) -> _Batch:
    rng = np.random.default_rng(seed)
    n = len(TIMES)
    arrays = read_only(
        {
            "x": rng.standard_normal((n, *sample_shape)),
            "t": np.asarray(TIMES),
            "dout": direction((n, *sample_shape[:-1], out_channels), rng),
            "samples": np.arange(n) + n * seed,
        }
    )
    told = read_only(_draw_told(network.takes, sample_shape, rng))
    return _Batch(w=read_only(random_weights(network, seed)), told=told, **arrays)


def _draw_told(takes: Widths, sample_shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, HostArray]:
    """Return the parts of `Told` that a network takes. One token of the first sample is masked, all of the last one."""
    n, told = len(TIMES), dict[str, HostArray]()
    if takes.vector:
        told["vector"] = rng.standard_normal((n, takes.vector))
    if takes.tokens:
        told["tokens"] = rng.standard_normal((n, LENGTH, takes.tokens))
        told["mask"] = np.arange(LENGTH) < np.linspace(LENGTH - 1, 0, n)[:, None]
    if takes.image:
        told["image"] = rng.standard_normal((n, *sample_shape[:-1], takes.image))
    return told


def _check_takes(network: Network, what: str) -> None:
    """Check that a network takes tokens and image in the widths that it is offered, or not at all."""
    for part in ("tokens", "image"):
        taken, offered = getattr(network.takes, part), getattr(OFFERED, part)
        assert taken in (0, offered), f"{what} takes {part} of width {taken}, but is offered {offered}"


def _check_mask(runner: _Runner, batch: _Batch) -> None:
    """Check that masked tokens do not change the prediction and have no gradient."""
    if "tokens" not in batch.told:
        return
    mask = batch.told["mask"]
    other = np.where(mask[..., None], batch.told["tokens"], batch.told["tokens"] + 1)
    out, changed = (
        runner.forward(replace(batch, told={**batch.told, "tokens": tokens}))[0]
        for tokens in (batch.told["tokens"], other)
    )
    assert np.array_equal(out, changed), f"{runner.what}: tokens that the mask leaves out change the prediction"
    dtokens = runner.both(batch).dtold["tokens"]
    assert not np.any(dtokens[~mask]), f"{runner.what}: tokens that the mask leaves out have a gradient"


def _check_parameters(network: Network, exempt: Sequence[str], what: str) -> None:
    """Check that the parameters make a layout, and that every exempt pattern matches one of their paths."""
    try:
        layout = Layout(network.parameters)
    except ConfigError as error:
        raise AssertionError(f"{what}: {error}") from error
    assert layout.size, f"{what} declares no parameters"
    for pattern in exempt:
        paths = [parameter.path for parameter in network.parameters if fnmatchcase(parameter.path, pattern)]
        assert paths, f"{what}: no parameter path matches the exempt pattern {pattern!r}"


def _check_forward(runner: _Runner, batch: _Batch) -> None:
    """Check the prediction's shape and type, with and without dropout and training."""
    for dropout in (False, True):
        out, saved = runner.forward(batch, dropout=dropout)
        assert (out.dtype, out.shape) == (np.float64, batch.dout.shape), (
            f"{runner.what}: the prediction for float64 x of shape {batch.x.shape} is {out.dtype} {out.shape}, "
            f"it must be float64 of shape {batch.dout.shape}"
        )
        assert saved is None, f"{runner.what}: forward keeps residuals (saved is not None) without training"
        trained, _ = runner.forward(batch, training=True, dropout=dropout)
        assert np.array_equal(out, trained), f"{runner.what}: the prediction changes with ops.training"


def _check_time(runner: _Runner, batch: _Batch) -> None:
    """Check that the prediction for each sample changes with its time."""
    out, other = (runner.forward(replace(batch, t=t))[0] for t in (batch.t, batch.t[::-1] + 1))
    for i, t in enumerate(batch.t):
        assert not np.array_equal(out[i], other[i]), f"{runner.what}: the prediction at t = {t} does not depend on t"


def _check_untold(runner: _Runner, batch: _Batch) -> None:
    """Check the prediction of a network that is told nothing, dx, and the gradients of all parameters together."""
    _check_forward(runner, batch)
    result, rng = runner.both(batch), np.random.default_rng(SEED)
    w, dw = (np.concatenate([arrays[path].ravel() for path in batch.w]) for arrays in (batch.w, result.dw))

    def value(flat: HostArray) -> HostArray:
        return runner.forward(replace(batch, w=runner.layout.views(flat, np)))[0]

    try:
        check_projection(lambda x: runner.forward(replace(batch, x=x))[0], batch.x, batch.dout, result.dx, rng)
        check_projection(value, w, batch.dout, dw, rng, name="all parameters")
    except AssertionError as error:
        raise AssertionError(f"{runner.what}: {error}") from error


def _check_gradients(runner: _Runner, batch: _Batch, exempt: Sequence[str]) -> None:
    """Check dx and the gradient of each path against central differences along a random direction."""
    rng = np.random.default_rng(SEED)
    result = runner.both(batch)
    check_projection(lambda x: runner.forward(replace(batch, x=x))[0], batch.x, batch.dout, result.dx, rng)
    for part, gradient in result.dtold.items():

        def told(a: HostArray, part: str = part) -> HostArray:
            return runner.forward(replace(batch, told={**batch.told, part: a}))[0]

        check_projection(told, batch.told[part], batch.dout, gradient, rng, name=f"the {part} told")
    for path, gradient in result.dw.items():

        def value(w: HostArray, path: str = path) -> HostArray:
            return runner.forward(replace(batch, w={**batch.w, path: w}))[0]

        check = check_zero if any(fnmatchcase(path, pattern) for pattern in exempt) else check_projection
        check(value, batch.w[path], batch.dout, gradient, rng, name=path)


def _check_accumulation(runner: _Runner, batch: _Batch) -> None:
    """Check that gradients are added, in place, to what the buffer holds."""
    fresh, onto = runner.both(batch), runner.both(batch, start=1.0)
    for path, gradient in fresh.dw.items():
        error = np.max(np.abs(onto.dw[path] - (1.0 + gradient)))
        assert error <= 1e-12 * (1.0 + np.max(np.abs(gradient))), (
            f"gradient of {path} is not added in place to what dw holds: write dw[path] += gradient"
        )


def _check_stateless(runner: _Runner, a: _Batch, b: _Batch) -> None:
    """Check that two passes give the same bits in sequence and interleaved, so that no layer holds state."""
    apart = runner.both(a), runner.both(b)
    (out_a, saved_a), (out_b, saved_b) = (runner.forward(batch, training=True) for batch in (a, b))
    mixed = _Result(out_a, *runner.backward(saved_a, a)), _Result(out_b, *runner.backward(saved_b, b))
    for one, two in zip(apart, mixed, strict=True):
        for name, array in one.arrays().items():
            assert np.array_equal(array, two.arrays()[name]), (
                f"{runner.what}: {name} differs when two passes are interleaved: keep residuals in saved, not on layers"
            )


def _check_recomputed(runner: _Runner, batch: _Batch) -> None:
    """Check that gradients have the same bits when blocks are recomputed in the backward pass."""
    kept = runner.both(batch).arrays()
    out, saved = runner.forward(batch, training=True, recompute=True)
    for name, array in _Result(out, *runner.backward(saved, batch)).arrays().items():
        assert np.array_equal(array, kept[name]), (
            f"{runner.what}: {name} differs with ops.recompute: a block's forward must do the same when run again"
        )


def _check_samples_apart(runner: _Runner, batch: _Batch) -> None:
    """Check that the prediction for a sample does not depend on its batch."""
    together, _ = runner.forward(batch)
    for i in range(len(batch.x)):
        alone, _ = runner.forward(batch.one(i))
        size = float(np.max(np.abs(together)))
        _assert_close(alone, together[i : i + 1], 1e-10 * size, f"{runner.what}: the prediction for a sample alone")


def _check_float32(runner: _Runner, batch: _Batch) -> None:
    """Check that float32 stays float32, and agrees with float64 to 1e-3 of the largest element."""
    exact, single = runner.both(batch), runner.both(batch.astype(np.float32))
    for name, array in single.arrays().items():
        assert array.dtype == np.float32, f"{runner.what}: {name} is {array.dtype} for float32 inputs"
    _assert_all_close(single, exact, 1e-3, f"{runner.what} in float32")


def _check_standard(runner: _Runner, batch: _Batch) -> None:
    """Check that the network needs only the array API standard, if array-api-strict is installed."""
    try:
        import array_api_strict
    except ImportError:
        return
    strict = _Runner(runner.network, Backend(array_api_strict), runner.what)
    _assert_all_close(strict.both(batch), runner.both(batch), 1e-9, f"{runner.what} on array-api-strict")


def _assert_all_close(actual: _Result, expected: _Result, rtol: float, what: str) -> None:
    """Compare arrays within `rtol` of their largest element, gradients within that of all, since one may be zero."""
    largest = {name: float(np.max(np.abs(array))) for name, array in expected.arrays().items()}
    floor = max(size for name, size in largest.items() if name.startswith("gradient"))
    for name, array in expected.arrays().items():
        allowed = rtol * max(largest[name], floor if name.startswith("gradient") else 0.0)
        _assert_close(actual.arrays()[name], array, allowed, f"{what}: {name}")


def _assert_close(actual: HostArray, expected: HostArray, allowed: float, name: str) -> None:
    assert actual.shape == expected.shape, f"{name} has shape {actual.shape}, not {expected.shape}"
    error = float(np.max(np.abs(actual - expected)))
    assert error <= allowed, f"{name} is off by {error:.2g}, {allowed:.2g} is allowed"
