"""The conformance kit for backends: transfers keep values, random numbers and operations agree with the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Backend, Purpose, Random, load_backend
from tinyddpm.errors import ConfigError
from tinyddpm.nn import DropoutNoise
from tinyddpm.ops import Operations, Saved, load_operations
from tinyddpm.ops.activation import Dropout
from tinyddpm.ops.noising import Noised
from tinyddpm.ops.optimisation import Descent, Factor
from tinyddpm.testing.gradients import HostArray

TYPES = ("float32", "float64", "int64", "uint8", "bool")
"""Types of arrays that a backend must transfer."""


def _dropout(backend: Backend) -> Dropout:
    return Dropout(DropoutNoise(backend.random(20), 7, np.asarray([3, 4])), 0.3, layer=2)


def _array(values: Any) -> Callable[[Backend], Any]:
    return lambda backend: backend.asarray(np.asarray(values))


NORM = {"x": (2, 3, 5, 6), "scale": (6,), "shift": (6,)}
MODULATION = {"scale of the modulation": (2, 6), "shift of the modulation": (2, 6)}
CALLS: tuple[tuple[str, dict[str, tuple[int, ...]], dict[str, Any]], ...] = (
    ("conv2d", {"x": (2, 5, 4, 3), "w": (3, 3, 3, 4), "b": (4,)}, {}),
    ("conv2d", {"x": (2, 6, 4, 3), "w": (3, 3, 3, 4), "b": (4,)}, {"stride": 2}),
    ("conv2d", {"x": (2, 5, 4, 3), "w": (1, 1, 3, 4), "b": (4,)}, {}),
    ("conv2d", {"x": (2, 5, 4, 3), "w": (3, 3, 3, 4), "b": (4,), "residual": (2, 5, 4, 4)}, {}),
    ("linear", {"x": (2, 5, 3), "w": (3, 4), "b": (4,)}, {}),
    ("linear", {"x": (2, 5, 3), "w": (3, 4), "b": (4,), "residual": (2, 5, 4)}, {}),
    ("embedding", {"table": (5, 4)}, {"index": _array([3, 0, 3])}),
    ("group_norm", NORM, {"groups": 2}),
    ("group_norm_silu", NORM, {"groups": 2}),
    ("group_norm_silu", {**NORM, **MODULATION}, {"groups": 2, "dropout": _dropout}),
    ("layer_norm", {"x": (2, 7, 6), "scale": (6,), "shift": (6,)}, {}),
    ("modulate", {"x": (2, 5, 3, 4), "scale": (2, 4), "shift": (2, 4)}, {}),
    ("add_vector", {"x": (2, 5, 3, 4), "v": (2, 4)}, {}),
    ("silu", {"x": (3, 7)}, {}),
    ("gelu", {"x": (3, 7)}, {}),
    ("dropout", {"x": (2, 5, 4)}, {"dropout": _dropout}),
    ("attention", {"q": (2, 4, 6), "k": (2, 7, 6), "v": (2, 7, 6)}, {"heads": 2}),
    (
        "attention",
        {"q": (2, 4, 6), "k": (2, 7, 6), "v": (2, 7, 6)},
        {"heads": 2, "mask": _array(np.arange(7) < np.asarray([[3], [7]]))},
    ),
    ("upsample", {"x": (2, 3, 5, 4)}, {}),
    ("average_pool", {"x": (2, 6, 4, 3)}, {}),
    ("concat", {"a": (2, 3, 4), "b": (2, 3, 1)}, {}),
    ("mse", {"prediction": (2, 3, 4), "target": (2, 3, 4)}, {}),
    ("gaussian_kl", dict.fromkeys(("mean", "log_variance", "q_mean", "q_log_variance"), (2, 3)), {}),
    ("gaussian_nll", dict.fromkeys(("mean", "log_variance", "x"), (2, 3)), {}),
    ("pixel_nll", dict.fromkeys(("mean", "log_variance", "x"), (2, 3)), {}),
)
"""Operations to compare, each with the shapes of its inputs, and its options or functions of the backend to them."""

TOLERANCE = 1e-4
"""Largest error of float32 against float64, as a share of the largest element: no sum here has more than some hundred
terms."""


def check_backend(backend: str | type[Backend], device: str | None = None) -> None:
    """Check that a backend keeps its contract, on this device, in fp32.

    - Arrays of every type in `TYPES` keep their values from the host to the device and back.
    - The description is one line that begins with the backend's name.
    - Random integers equal the reference's bit for bit, normal numbers to rounding.
    - All operations and their gradients agree with the reference in float64, return float32 for float32, keep no
      residuals without training, and do not write to their inputs.
    - The noising of a batch, and the step of Adam with its averages, agree with the reference.

    Args:
        backend: its registered name, or the class.
        device: the device, by the backend's own name of it.

    Raises:
        BackendError: the backend cannot be used here.
        AssertionError: the backend breaks its contract; the line names the property.
    """
    make = registry.load("backends", backend) if isinstance(backend, str) else backend
    what = f"backend {backend if isinstance(backend, str) else backend.__name__!r}"
    assert isinstance(make, type) and issubclass(make, Backend), f"{what} is no subclass of tinyddpm.backend.Backend"  # noqa: PT018
    there = make(device)
    line = there.describe()
    assert line.startswith(there.name) and line.count("\n") == 0, f"{what} describes itself as {line!r}"  # noqa: PT018
    with there.scope():
        _check_data(there, what)
        _check_random(there, what)
        ops, kept = load_operations(there), load_operations(there, training=True)
        for name, shapes, options in CALLS:
            _check_operation(ops, kept, name, shapes, options, what)
        _check_embedded_time(ops, what)
        _check_noising(kept, what)
        _check_optimisation(kept, what)


def _check_data(backend: Backend, what: str) -> None:
    """Check that arrays keep their values on the way to the device and back, and that `upload` writes to an array."""
    for dtype in TYPES:
        host = np.arange(6).reshape(2, 3).astype(dtype)
        back = backend.to_numpy(backend.asarray(host))
        assert isinstance(back, np.ndarray), f"{what}: to_numpy gives a {type(back).__name__}"
        same = back.dtype == host.dtype and np.array_equal(back, host)
        assert same, f"{what}: {dtype} values do not survive asarray and to_numpy"
        buffer = backend.host_buffer((2, 3), host.dtype)
        buffer[...] = host
        there = backend.asarray(np.zeros((2, 3), dtype))
        backend.upload(there, buffer)
        backend.synchronize()
        assert np.array_equal(backend.to_numpy(there), host), f"{what}: upload does not write {dtype} values"


def _check_random(backend: Backend, what: str) -> None:
    """Check the random numbers against the reference's, and that a step below 0 is refused."""
    samples = np.asarray([0, 3, 2**31])
    ours, reference = backend.random(20), Random(load_backend("numpy").xp, 20)
    stream = (Purpose.NOISE, 7, samples, (3, 5))
    bits = [backend.to_numpy(ours.bits(*stream)), reference.bits(*stream)]
    assert np.array_equal(*bits), f"{what}: random bits are not the reference's"
    normal = backend.to_numpy(ours.normal(*stream))
    close = normal.dtype == np.float32 and np.allclose(normal, reference.normal(*stream), rtol=1e-6, atol=1e-6)
    assert close, f"{what}: normal numbers are not the reference's to the rounding of float32"
    try:
        ours.bits(Purpose.NOISE, -1, samples, (1,))
    except ConfigError:
        return
    raise AssertionError(f"{what}: random numbers are drawn for step -1: refuse it with ConfigError")


def _check_operation(
    ops: Operations, kept: Operations, name: str, shapes: dict[str, tuple[int, ...]], options: dict[str, Any], what: str
) -> None:
    """Check an operation and its gradients against the reference in float64; `kept` is in training, `ops` is not."""
    rng = np.random.default_rng(20)
    inputs = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    reference = Operations(load_backend("numpy"), training=True)
    y, saved = _called(reference, name, inputs, options)
    dy = rng.standard_normal(y.shape)
    expected = _named(shapes, y, getattr(reference, f"{name}_backward")(saved, dy))

    backend = kept.backend
    moved = {key: backend.asarray(value.astype(np.float32)) for key, value in inputs.items()}
    where = f"{what}: {name}" + "".join(f", {key}" if callable(o) else f", {key} {o}" for key, o in options.items())
    assert _called(ops, name, moved, options)[1] is None, f"{where} keeps residuals without training"
    y, saved = _called(kept, name, moved, options)
    found = _named(shapes, y, getattr(kept, f"{name}_backward")(saved, backend.asarray(dy.astype(np.float32))))
    for key, value in inputs.items():
        same = np.array_equal(backend.to_numpy(moved[key]), value.astype(np.float32))
        assert same, f"{where} writes to its input {key}"
    for key, wanted in expected.items():
        got = backend.to_numpy(found[key])
        assert got.dtype == np.float32, f"{where}: {key} is {got.dtype} for float32 inputs"
        assert got.shape == wanted.shape, f"{where}: {key} has shape {got.shape}, not {wanted.shape}"
        error = np.max(np.abs(got - wanted)) / np.max(np.abs(wanted))
        assert error <= TOLERANCE, f"{where}: {key} is off by {error:.1e} of its largest element"


def _called(ops: Operations, name: str, inputs: dict[str, Any], options: dict[str, Any]) -> tuple[Any, Saved]:
    """Return the result and the residuals of an operation; inputs of the modulation are passed as one tuple."""
    there = {key: option(ops.backend) if callable(option) else option for key, option in options.items()}
    plain = {key: value for key, value in inputs.items() if key not in MODULATION}
    if len(plain) < len(inputs):
        there["modulation"] = tuple(inputs[key] for key in MODULATION)
    y, saved = getattr(ops, name)(**plain, **there)
    return y, saved


def _check_embedded_time(ops: Operations, what: str) -> None:
    """Check the sinusoidal embedding of small and large times, for both shifts."""
    backend, reference, t = ops.backend, Operations(load_backend("numpy")), np.asarray([0, 1, 999])
    for shift in (0.0, 1.0):
        found = backend.to_numpy(ops.sinusoidal(backend.asarray(t), 8, backend.xp.float32, shift))
        close = found.dtype == np.float32 and np.allclose(
            found, reference.sinusoidal(t, 8, np.float64, shift), atol=1e-3
        )
        assert close, f"{what}: sinusoidal, shift {shift:g}, is not the reference's to the rounding of float32"


def _check_noising(ops: Operations, what: str) -> None:
    """Check the noising of a batch of images that are mirrored at random; step and slots are arrays on the device."""
    rng, backend, host = np.random.default_rng(20), ops.backend, load_backend("numpy")
    alpha_bar = np.linspace(0.99, 0.01, 9)
    data, levels = rng.integers(0, 256, (5, 3, 4, 2), np.uint8), (alpha_bar**0.5, (1 - alpha_bar) ** 0.5)
    places = np.asarray([4, 0, 0, 2, 1, 3])

    def noised(there: Operations) -> Noised:
        asarray = there.backend.asarray
        step, slots, rows = (asarray(numbers) for numbers in (np.asarray([7]), np.arange(6), places))
        signal, noise = (asarray(level.astype(np.float32)) for level in levels)
        return there.noised(there.backend.random(20), step, slots, asarray(data), (signal, noise), rows, flip=True)

    found, wanted = noised(ops), noised(Operations(host))
    for name, got, expected in zip(wanted._fields, found, wanted, strict=True):
        close = np.allclose(backend.to_numpy(got), expected, rtol=1e-5, atol=1e-5)
        assert close, f"{what}: noised gives another {name} than the reference"


def _check_optimisation(ops: Operations, what: str) -> None:
    """Check a clipped step of AdamW with its averages against the reference in float64, for losses of 0.5 and NaN."""
    rng, backend = np.random.default_rng(20), ops.backend
    descent = Descent(clip=1.0, decay=0.9, weight_decay=0.5)
    gradient, *state = rng.standard_normal((6, 40))
    state[3] **= 2
    ours = [backend.asarray(values.astype(np.float32)) for values in (gradient, *state)]
    reference = Operations(load_backend("numpy"))
    for loss in (0.5, np.nan):
        found = _descended(ops, descent, loss, *ours)
        _descended(reference, descent, loss, gradient, *state)
        assert bool(found[Factor.FINITE]) == np.isfinite(loss), (
            f"{what}: step_factors has the wrong answer to whether a loss of {loss} is finite"
        )
        for name, got, expected in zip(("weights", "ema", "m", "v", "average"), ours[1:], state, strict=True):
            operation = "power_average gives" if name == "average" else "decay and adam give"
            close = np.allclose(backend.to_numpy(got), expected, rtol=1e-5, atol=1e-5)
            assert close, f"{what}: {operation} other {name} than the reference where the loss is {loss}"


def _descended(ops: Operations, descent: Descent, loss: float, gradient: Any, weights: Any, *state: Any) -> HostArray:
    """Do one step of the optimiser in place, and return its factors."""
    asarray = ops.backend.asarray
    step, rate = asarray(np.asarray([3])), asarray(np.asarray([0.1]))
    factors = ops.step_factors(descent, step, rate, asarray(np.asarray([loss], np.float32)), ops.lengths(gradient))
    matrices = asarray((np.arange(weights.shape[0]) % 2).astype(np.float32))
    *moments, average = state
    ops.decay(descent, factors, rate, matrices, weights)
    ops.adam(descent, factors, gradient, weights, *moments)
    ops.power_average(6.94, step, factors, weights, average)
    return ops.backend.to_numpy(factors)


def _named(shapes: dict[str, tuple[int, ...]], y: Any, gradients: Any) -> dict[str, HostArray]:
    """Return the result and the gradients of an operation by the names that messages use."""
    flat = gradients if isinstance(gradients, tuple) else (gradients,)
    if isinstance(flat[-1], tuple):  # those of a modulation, empty without one
        flat = (*flat[:-1], *flat[-1])
    return {"the result": y, **{f"d{key}": gradient for key, gradient in zip(shapes, flat, strict=False)}}
