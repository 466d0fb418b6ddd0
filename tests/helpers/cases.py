"""Calls of every operation: which inputs are differentiable, and inputs of many shapes, types and memory layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from helpers.comparison import HostArray
from tinyddpm.backend import Backend, load_backend
from tinyddpm.nn import DropoutNoise
from tinyddpm.ops import Operations, Saved
from tinyddpm.ops.activation import Dropout

NUMPY = load_backend("numpy")

NOT_DIFFERENTIABLE = {"sinusoidal"}
"""Operations on data alone: they have no backward."""

NOT_OPERATIONS = {
    "conv2d_costs", "weights", "x_0", "noised", "lengths", "step_factors", "decay", "adam", "power_average",
}  # fmt: skip
"""What else an operations class can be asked."""


@dataclass(frozen=True)
class Case:
    """One call of an operation, by keyword.

    Attributes:
        operation: its name.
        inputs: the differentiable inputs, in the order in which the backward returns their gradients.
        others: dropout, indices, targets and options.
        together: arguments that are a tuple of inputs, by name; their gradients come as a tuple too.
    """

    operation: str
    inputs: Mapping[str, Any]
    others: Mapping[str, Any]
    together: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def forward(self, ops: Operations, **changed: Any) -> tuple[Any, Saved]:
        """Return (y, saved), with some arguments changed; dropout's masks are drawn by the operations' backend."""
        arguments = {**self.inputs, **self.others, **changed}
        if isinstance(dropout := arguments.get("dropout"), Dropout):
            arguments["dropout"] = replace(dropout, noise=masks(ops.backend, self.inputs["x"].shape[0]))
        for argument, names in self.together.items():
            arguments[argument] = tuple(arguments.pop(name) for name in names)
        result: tuple[Any, Saved] = getattr(ops, self.operation)(**arguments)
        return result

    def backward(self, ops: Operations, saved: Saved, dy: Any) -> dict[str, Any]:
        """Return the gradients by the name of the input; a residual's is dy, which no operation returns."""
        gradients = getattr(ops, f"{self.operation}_backward")(saved, dy)
        if not isinstance(gradients, tuple):
            gradients = (gradients,)
        if "residual" in self.inputs:
            gradients = (*gradients, dy)
        flat = [g for gradient in gradients for g in (gradient if isinstance(gradient, tuple) else (gradient,))]
        return dict(zip(self.inputs, flat, strict=True))

    def map(self, change: Callable[[HostArray], Any]) -> Case:
        """Return the case with every array changed; options stay."""

        def changed(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: change(v) if isinstance(v, np.ndarray) else v for name, v in values.items()}

        return replace(self, inputs=changed(self.inputs), others=changed(self.others))

    def dy(self, y: HostArray, rng: np.random.Generator) -> Any:
        """Return a random gradient that reaches y."""
        return np.asarray(rng.normal(size=y.shape), y.dtype)


def _conv2d(
    rng: np.random.Generator,
    n: int,
    h: int,
    w: int,
    c_in: int,
    c_out: int,
    kernel: int,
    stride: int,
    residual: bool = False,
) -> Case:
    inputs = {"x": (n, h, w, c_in), "w": (kernel, kernel, c_in, c_out), "b": (c_out,)}
    if residual:
        inputs["residual"] = (n, -(-h // stride), -(-w // stride), c_out)
    return Case("conv2d", _normal(rng, inputs), {"stride": stride})


def _linear(rng: np.random.Generator, leading: tuple[int, ...], c_in: int, c_out: int, residual: bool = False) -> Case:
    inputs = {"x": (*leading, c_in), "w": (c_in, c_out), "b": (c_out,)}
    if residual:
        inputs["residual"] = (*leading, c_out)
    return Case("linear", _normal(rng, inputs), {})


def _embedding(rng: np.random.Generator, n: int, k: int, d: int) -> Case:
    return Case("embedding", _normal(rng, {"table": (k, d)}), {"index": rng.integers(0, k, n)})


def _group_norm(
    rng: np.random.Generator, leading: tuple[int, ...], groups: int, each: int, eps: float | None = None
) -> Case:
    c = groups * each
    inputs = _normal(rng, {"x": (*leading, c), "scale": (c,), "shift": (c,)})
    return Case("group_norm", inputs, {"groups": groups} if eps is None else {"groups": groups, "eps": eps})


def _group_norm_silu(
    rng: np.random.Generator, leading: tuple[int, ...], groups: int, each: int, modulated: bool, rate: float = 0.0
) -> Case:
    n, c = leading[0], groups * each
    shapes = {"x": (*leading, c), "scale": (c,), "shift": (c,)}
    others: dict[str, Any] = {"groups": groups}
    if rate:
        others["dropout"] = Dropout(masks(NUMPY, n), rate, 2)
    if not modulated:
        return Case("group_norm_silu", _normal(rng, shapes), others)
    names = ("m_scale", "m_shift")
    inputs = _normal(rng, shapes | dict.fromkeys(names, (n, c)))
    return Case("group_norm_silu", inputs, others, {"modulation": names})


def _layer_norm(rng: np.random.Generator, leading: tuple[int, ...], c: int, eps: float | None = None) -> Case:
    inputs = _normal(rng, {"x": (*leading, c), "scale": (c,), "shift": (c,)})
    return Case("layer_norm", inputs, {} if eps is None else {"eps": eps})


def _modulate(rng: np.random.Generator, n: int, pixels: tuple[int, ...], c: int) -> Case:
    return Case("modulate", _normal(rng, {"x": (n, *pixels, c), "scale": (n, c), "shift": (n, c)}), {})


def _add_vector(rng: np.random.Generator, n: int, pixels: tuple[int, ...], c: int) -> Case:
    return Case("add_vector", _normal(rng, {"x": (n, *pixels, c), "v": (n, c)}), {})


def _silu(rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
    return Case("silu", {"x": 3 * rng.normal(size=shape)}, {})


def _gelu(rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
    return Case("gelu", {"x": 2 * rng.normal(size=shape)}, {})


def _dropout(rng: np.random.Generator, shape: tuple[int, ...], rate: float) -> Case:
    return Case("dropout", _normal(rng, {"x": shape}), {"dropout": Dropout(masks(NUMPY, shape[0]), rate, 1)})


def masks(backend: Backend, n: int) -> DropoutNoise:
    """Return where the masks of n samples come from."""
    return DropoutNoise(backend.random(5), 3, np.arange(n))


def _attention(
    rng: np.random.Generator, n: int, queries: int, keys: int, heads: int, each: int, masked: bool = False
) -> Case:
    """With a mask, at least one key of each sample is there."""
    c = heads * each
    inputs = _normal(rng, {"q": (n, queries, c), "k": (n, keys, c), "v": (n, keys, c)})
    if not masked:
        return Case("attention", inputs, {"heads": heads})
    mask = rng.random((n, keys)) < 0.5
    mask[np.arange(n), rng.integers(0, keys, n)] = True
    return Case("attention", inputs, {"heads": heads, "mask": mask})


def _upsample(rng: np.random.Generator, n: int, h: int, w: int, c: int) -> Case:
    return Case("upsample", _normal(rng, {"x": (n, h, w, c)}), {})


def _average_pool(rng: np.random.Generator, n: int, h: int, w: int, c: int) -> Case:
    return Case("average_pool", _normal(rng, {"x": (n, 2 * h, 2 * w, c)}), {})


def _concat(rng: np.random.Generator, leading: tuple[int, ...], c_a: int, c_b: int) -> Case:
    return Case("concat", _normal(rng, {"a": (*leading, c_a), "b": (*leading, c_b)}), {})


def _mse(rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
    return Case("mse", _normal(rng, {"prediction": shape}), {"target": rng.normal(size=shape)})


def _gaussian_kl(rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
    inputs = _normal(rng, {"mean": shape, "log_variance": shape})
    q = {"q_mean": rng.normal(size=shape), "q_log_variance": rng.normal(size=(shape[0], *(1 for _ in shape[1:])))}
    return Case("gaussian_kl", inputs, q)


def _gaussian_nll(rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
    return Case("gaussian_nll", _normal(rng, {"mean": shape, "log_variance": shape}), {"x": rng.normal(size=shape)})


def _pixel_nll(rng: np.random.Generator, shape: tuple[int, ...], log_variance: float) -> Case:
    """Pixels with the mean some standard deviations away; every third one at an end of the range."""
    x = rng.integers(0, 256, shape) / 127.5 - 1
    x.flat[::3] = np.sign(x.flat[::3])
    inputs = _normal(rng, {"mean": shape, "log_variance": shape})
    inputs["log_variance"] += log_variance
    inputs["mean"] = x + inputs["mean"] * np.exp(log_variance / 2)
    return Case("pixel_nll", inputs, {"x": x})


def _normal(rng: np.random.Generator, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, HostArray]:
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


BUILDERS: dict[str, Callable[..., Case]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "embedding": _embedding,
    "group_norm": _group_norm,
    "group_norm_silu": _group_norm_silu,
    "layer_norm": _layer_norm,
    "modulate": _modulate,
    "add_vector": _add_vector,
    "silu": _silu,
    "gelu": _gelu,
    "dropout": _dropout,
    "attention": _attention,
    "upsample": _upsample,
    "average_pool": _average_pool,
    "concat": _concat,
    "mse": _mse,
    "gaussian_kl": _gaussian_kl,
    "gaussian_nll": _gaussian_nll,
    "pixel_nll": _pixel_nll,
}
"""How a case of each differentiable operation is made."""

SHAPES: dict[str, list[dict[str, Any]]] = {
    "conv2d": [
        {"n": 2, "h": 5, "w": 4, "c_in": 3, "c_out": 2, "kernel": 3, "stride": 1},
        {"n": 1, "h": 1, "w": 1, "c_in": 2, "c_out": 3, "kernel": 3, "stride": 1},
        {"n": 2, "h": 6, "w": 4, "c_in": 2, "c_out": 3, "kernel": 3, "stride": 2},
        {"n": 1, "h": 5, "w": 7, "c_in": 1, "c_out": 2, "kernel": 3, "stride": 2},
        {"n": 3, "h": 4, "w": 7, "c_in": 3, "c_out": 1, "kernel": 3, "stride": 2},
        {"n": 2, "h": 3, "w": 4, "c_in": 3, "c_out": 2, "kernel": 1, "stride": 1},
        {"n": 1, "h": 5, "w": 4, "c_in": 2, "c_out": 2, "kernel": 1, "stride": 2},
        {"n": 2, "h": 5, "w": 3, "c_in": 2, "c_out": 3, "kernel": 3, "stride": 2, "residual": True},
        {"n": 2, "h": 5, "w": 4, "c_in": 3, "c_out": 2, "kernel": 3, "stride": 1, "residual": True},
    ],
    "linear": [
        {"leading": (1,), "c_in": 1, "c_out": 3},
        {"leading": (5,), "c_in": 3, "c_out": 4},
        {"leading": (2, 3, 5), "c_in": 4, "c_out": 2},
        {"leading": (2, 3, 5), "c_in": 2, "c_out": 3, "residual": True},
    ],
    "embedding": [{"n": 1, "k": 3, "d": 2}, {"n": 7, "k": 3, "d": 5}],
    "group_norm": [
        {"leading": (2, 3, 5), "groups": 1, "each": 6},
        {"leading": (1, 3, 3), "groups": 3, "each": 2},
        {"leading": (2, 4, 2), "groups": 5, "each": 1},
        {"leading": (3, 7), "groups": 2, "each": 4, "eps": 0.1},
        {"leading": (3,), "groups": 2, "each": 3},
    ],
    "group_norm_silu": [
        {"leading": (2, 3, 5), "groups": 1, "each": 6, "modulated": False},
        {"leading": (3, 4, 2), "groups": 2, "each": 3, "modulated": True},
        {"leading": (2, 7), "groups": 3, "each": 2, "modulated": True},
        {"leading": (3,), "groups": 2, "each": 3, "modulated": False},
        {"leading": (2, 3, 5), "groups": 2, "each": 4, "modulated": False, "rate": 0.2},
        {"leading": (3, 5), "groups": 2, "each": 3, "modulated": True, "rate": 0.4},
    ],
    "layer_norm": [
        {"leading": (1,), "c": 5},
        {"leading": (2, 7), "c": 3, "eps": 0.1},
        {"leading": (2, 3, 1), "c": 8},
    ],
    "modulate": [
        {"n": 1, "pixels": (3, 3), "c": 1},
        {"n": 3, "pixels": (5, 2), "c": 4},
        {"n": 2, "pixels": (7,), "c": 3},
        {"n": 3, "pixels": (), "c": 2},
    ],
    "add_vector": [
        {"n": 1, "pixels": (3, 3), "c": 1},
        {"n": 3, "pixels": (5, 2), "c": 4},
        {"n": 3, "pixels": (), "c": 2},
    ],
    "silu": [{"shape": (1,)}, {"shape": (2, 3, 5, 1)}],
    "gelu": [{"shape": (1,)}, {"shape": (2, 3, 5, 1)}],
    "dropout": [{"shape": (1, 3), "rate": 0.0}, {"shape": (2, 3, 5, 4), "rate": 0.3}, {"shape": (3, 7), "rate": 0.9}],
    "attention": [
        {"n": 1, "queries": 5, "keys": 5, "heads": 1, "each": 3},
        {"n": 2, "queries": 4, "keys": 7, "heads": 2, "each": 3},
        {"n": 1, "queries": 1, "keys": 3, "heads": 4, "each": 1},
        {"n": 3, "queries": 6, "keys": 2, "heads": 3, "each": 2},
        {"n": 3, "queries": 4, "keys": 8, "heads": 2, "each": 3, "masked": True},
    ],
    "upsample": [{"n": 1, "h": 1, "w": 1, "c": 1}, {"n": 2, "h": 3, "w": 5, "c": 4}],
    "average_pool": [{"n": 1, "h": 1, "w": 1, "c": 1}, {"n": 2, "h": 3, "w": 5, "c": 4}],
    "concat": [{"leading": (1,), "c_a": 1, "c_b": 2}, {"leading": (2, 3, 5), "c_a": 4, "c_b": 1}],
    "mse": [{"shape": (1, 1)}, {"shape": (2, 3, 5, 1)}],
    "gaussian_kl": [{"shape": (1, 1)}, {"shape": (2, 3, 5, 1)}],
    "gaussian_nll": [{"shape": (1, 1)}, {"shape": (2, 3, 5, 1)}],
    "pixel_nll": [{"shape": (2, 4, 5, 1), "log_variance": level} for level in (-10.0, -6.0, 0.0)],
}
"""Shapes of each operation: odd sizes, one sample, several heads and groups, cross-attention. In none is a gradient
zero by mathematics, as it would be for one key, or in a group of one element."""

_few = st.integers(1, 4)
_leading = st.lists(_few, min_size=1, max_size=3).map(tuple)
_shape = st.lists(_few, min_size=1, max_size=4).map(tuple)
_size = st.integers(1, 7)

DRAWN: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "conv2d": st.fixed_dictionaries(
        {
            "n": _few,
            "h": _size,
            "w": _size,
            "c_in": _few,
            "c_out": _few,
            "kernel": st.sampled_from([1, 3]),
            "stride": st.sampled_from([1, 2]),
            "residual": st.booleans(),
        }
    ),
    "linear": st.fixed_dictionaries({"leading": _leading, "c_in": _few, "c_out": _few, "residual": st.booleans()}),
    "embedding": st.fixed_dictionaries({"n": _size, "k": _few, "d": _few}),
    "group_norm": st.fixed_dictionaries(
        {"leading": _leading, "groups": _few, "each": _few, "eps": st.sampled_from([1e-6, 1e-3, 0.5])}
    ).filter(lambda shape: prod(shape["leading"]) * shape["each"] > 1),  # Torch refuses a single element.
    "group_norm_silu": st.fixed_dictionaries(
        {
            "leading": _leading,
            "groups": _few,
            "each": _few,
            "modulated": st.booleans(),
            "rate": st.sampled_from([0.0, 0.3]),
        }
    ).filter(lambda shape: prod(shape["leading"][1:]) * shape["each"] > 2),  # Two elements, nearly equal, amplify all.
    "layer_norm": st.fixed_dictionaries({"leading": _leading, "c": _size, "eps": st.sampled_from([1e-6, 1e-3, 0.5])}),
    "modulate": st.fixed_dictionaries({"n": _few, "pixels": st.lists(_few, max_size=2).map(tuple), "c": _few}),
    "add_vector": st.fixed_dictionaries({"n": _few, "pixels": st.lists(_few, max_size=2).map(tuple), "c": _few}),
    "silu": st.fixed_dictionaries({"shape": _shape}),
    "gelu": st.fixed_dictionaries({"shape": _shape}),
    "dropout": st.fixed_dictionaries({"shape": _shape, "rate": st.floats(0, 0.95)}),
    "attention": st.fixed_dictionaries(
        {"n": _few, "queries": _size, "keys": _size, "heads": _few, "each": _few, "masked": st.booleans()}
    ),
    "upsample": st.fixed_dictionaries({"n": _few, "h": _few, "w": _few, "c": _few}),
    "average_pool": st.fixed_dictionaries({"n": _few, "h": _few, "w": _few, "c": _few}),
    "concat": st.fixed_dictionaries({"leading": _leading, "c_a": _few, "c_b": _few}),
    "mse": st.fixed_dictionaries({"shape": st.lists(_few, min_size=2, max_size=4).map(tuple)}),
    "gaussian_kl": st.fixed_dictionaries({"shape": _shape}),
    "gaussian_nll": st.fixed_dictionaries({"shape": _shape}),
    "pixel_nll": st.fixed_dictionaries({"shape": _shape, "log_variance": st.floats(-9, 2)}),
}
"""Shapes that hypothesis draws."""

ALL_SHAPES = [(operation, shape) for operation, shapes in SHAPES.items() for shape in shapes]


def name_of(shape: Any) -> str:
    """Return a short test id, such as `n2-h5-w4`."""
    if not isinstance(shape, dict):
        return str(shape)
    return "-".join(name + str(value).replace(" ", "") for name, value in shape.items())


def make_case(operation: str, shape: Mapping[str, Any], seed: int) -> Case:
    """Return a float64 case with random inputs."""
    return BUILDERS[operation](np.random.default_rng(seed), **shape)


def _strided(array: HostArray) -> HostArray:
    """Return `array` as every second element, backwards, of a larger one; between them lies what would be noticed."""
    gap = {"f": np.nan, "b": True, "i": np.iinfo(np.int64).max}[array.dtype.kind]
    around = np.full([2 * side for side in array.shape], gap, array.dtype)
    view: HostArray = around[(slice(None, None, -2),) * array.ndim]
    view[...] = array
    return view


LAYOUTS: dict[str, Callable[[HostArray], HostArray]] = {
    "contiguous": np.ascontiguousarray,
    "transposed": np.asfortranarray,
    "strided": _strided,
}
"""The same array in three orders of memory."""
