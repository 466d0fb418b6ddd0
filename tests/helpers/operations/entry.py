"""The entry of an operation in the table that all tests of operations use, and one call of an operation."""

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
"""Strategies of sizes and shapes; `PIXELS` may be empty, for samples that are vectors."""


class _Torch:
    """Torch, imported at the first use, as only comparisons with Torch need it."""

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
    """Base of the table's entries, one for each operation with a backward.

    `class SiLU(Operation, name="silu")` is the entry of `Operations.silu`; its docstring says what the operation takes
    and returns. Its function `case(rng, **shape)` makes a float64 case with random inputs. `by_torch(**arguments)`
    returns y by Torch's own functions: the expected values and, by autograd, gradients.

    Attributes:
        shapes: arguments of `case` to try: odd sizes, one sample, several heads and groups, cross-attention. None makes
            a gradient zero by mathematics, as one key or a group of one element would.
        drawn: strategy of the arguments of `case`.
        kernels: backends with a faster version.
        parameters: inputs that are parameters of a layer. Their gradients are float32 if activations are bfloat16.
        vectors: those parameters that are float32 themselves. An operation with such parameters has a backward with the
            arguments `into` and `added`, in classes of operations that `store`.
        roundings: numbers of roundings to bfloat16 on the way to y, to a gradient of an activation, and to a gradient
            of a parameter; None for operations that networks in bfloat16 do not call, such as losses.
        cancels: whether terms cancel in y or a gradient, so that its largest element is as large as the terms only if
            there are many elements.
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
    """Return the source of the dropout masks of n samples."""
    return DropoutNoise(backend.random(5), 3, np.arange(n))


def dropout(n: int, rate: float, layer: int) -> Dropout:
    """Return a layer's dropout on n samples."""
    return Dropout(masks(NUMPY, n), rate, layer)
