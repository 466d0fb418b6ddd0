"""What an entry of the table of operations says, and one call of an operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st

from helpers.comparison import HostArray
from tinyddpm.backend import Backend, load_backend
from tinyddpm.nn import DropoutNoise
from tinyddpm.ops import Operations, Saved
from tinyddpm.ops.activation import Dropout

NUMPY = load_backend("numpy")

FEW, SIZE = st.integers(1, 4), st.integers(1, 7)
LEADING = st.lists(FEW, min_size=1, max_size=3).map(tuple)
SHAPE = st.lists(FEW, min_size=1, max_size=4).map(tuple)
PIXELS = st.lists(FEW, max_size=2).map(tuple)
"""What hypothesis draws sizes and shapes from; `PIXELS` may be none, of a vector for each sample."""


class _Torch:
    """Torch, imported when its first function is asked for: only the comparison with Torch needs it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("torch"), name)


torch = _Torch()


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

    def astype(self, dtype: type) -> Case:
        """Return the case with its real numbers in another type."""
        return self.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a)

    def dy(self, y: HostArray, rng: np.random.Generator) -> Any:
        """Return a random gradient that reaches y."""
        return np.asarray(rng.normal(size=y.shape), y.dtype)


class Operation:
    """An operation that has a backward, as tests know it. The docstring of each says what it takes and returns.

    A subclass is an entry of the table: `class SiLU(Operation, name="silu")` says all of `Operations.silu`. It has two
    functions, `case(rng, **shape)`, which makes a float64 case with random inputs, and `by_torch(**arguments)`, which
    returns y by Torch's own functions: the oracle of values and, by autograd, of gradients.

    Attributes:
        shapes: arguments of `case`: odd sizes, one sample, several heads and groups, cross-attention. In none is a
            gradient zero by mathematics, as it would be for one key, or in a group of one element.
        drawn: the arguments of `case` that hypothesis draws.
        kernels: the backends that have a faster version of it.
        parameters: inputs that are parameters of a layer: their gradients are float32 where activations are bfloat16.
        vectors: those of them that are kept in float32 as well. The backward of an operation that has such takes `into`
            and `added` where a class of operations `stores`.
        roundings: how many roundings to bfloat16 lie on the way to y, to a gradient of an activation, and to one of a
            parameter; None for what no network of bfloat16 calls: losses are of float32.
        cancels: whether these are of terms that cancel: only of many elements is the largest as large as the terms.
        multiplies: whether it is a product of matrices, whose kernels in bfloat16 have tests of their own.
    """

    name: ClassVar[str]
    shapes: ClassVar[Sequence[Mapping[str, Any]]]
    drawn: ClassVar[st.SearchStrategy[dict[str, Any]]]
    kernels: ClassVar[tuple[str, ...]] = ()
    parameters: ClassVar[tuple[str, ...]] = ()
    vectors: ClassVar[tuple[str, ...]] = ()
    roundings: ClassVar[tuple[int, int, int] | None] = None
    cancels: ClassVar[bool] = False
    multiplies: ClassVar[bool] = False

    case: ClassVar[Callable[..., Case]]
    by_torch: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls, name: str) -> None:
        cls.name = name


def normal(rng: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, HostArray]:
    """Return standard normal inputs of these shapes."""
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def masks(backend: Backend, n: int) -> DropoutNoise:
    """Return where the masks of n samples come from."""
    return DropoutNoise(backend.random(5), 3, np.arange(n))


def dropout(n: int, rate: float, layer: int) -> Dropout:
    """Return a layer's dropout on n samples."""
    return Dropout(masks(NUMPY, n), rate, layer)
