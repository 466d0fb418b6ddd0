"""Time and arithmetic of a training step, by operation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MethodType
from typing import Any

from tinyddpm.backend import Array
from tinyddpm.ops import Operations, Saved


@dataclass
class Row:
    """All calls of one operation; for convolutions, all calls of one shape.

    Attributes:
        label: the operation's name, and a convolution's kernel, channels and image size.
        calls: number of calls.
        seconds: duration of all calls together.
        flop: floating-point operations of all calls by the direct algorithm, two per multiply-add; 0 for operations
            that are no matrix products.
        moved: bytes of all input and output arrays, each counted once: a lower limit of what is read and written.
    """

    label: str
    calls: int = 0
    seconds: float = 0.0
    flop: int = 0
    moved: int = 0

    @property
    def backward(self) -> bool:
        """Whether this is an operation of the backward pass."""
        return self.label.split()[0].endswith("_backward")


@dataclass(frozen=True)
class Product:
    """The arithmetic of one call: floating-point operations of its forward by the direct algorithm, and its shape."""

    flop: int = 0
    shape: str = ""


@dataclass(frozen=True, order=True)
class ConvShape:
    """The shapes that decide how a convolution is computed."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: int

    def __str__(self) -> str:
        kh, kw, c_in, c_out = self.w
        step = f"/{self.stride}" if self.stride > 1 else ""
        return f"{kh}x{kw}{step} {c_in}→{c_out} at {self.x[1]}x{self.x[2]}"


def conv2d_product(x: Array, w: Array, b: Array, stride: int = 1, *_: Any, **__: Any) -> Product:
    """Return the arithmetic of a convolution: kh·kw·C_in multiply-adds for each output number."""
    shape = ConvShape(tuple(x.shape), tuple(w.shape), stride)
    n, height, width, _c = shape.x
    return Product(2 * n * -(-height // stride) * -(-width // stride) * prod(shape.w), str(shape))


def linear_product(x: Array, w: Array, *_: Any, **__: Any) -> Product:
    """Return the arithmetic of a dense layer: C_in multiply-adds for each output number."""
    return Product(2 * prod(x.shape[:-1]) * prod(w.shape))


def attention_product(q: Array, k: Array, *_: Any, **__: Any) -> Product:
    """Return the arithmetic of attention: Q Kᵀ and P V, each N·L·M·C multiply-adds whatever the number of heads."""
    n, queries, c = q.shape
    return Product(2 * 2 * n * queries * k.shape[1] * c)


PRODUCTS: dict[str, Callable[..., Product]] = {
    "conv2d": conv2d_product,
    "linear": linear_product,
    "attention": attention_product,
}
"""The operations that are matrix products. The backward of each has two products for every one of its forward."""


@dataclass(frozen=True)
class _Kept:
    """The residuals of a forward, and its arithmetic, from which that of its backward follows."""

    saved: Saved
    product: Product


class TimedOperations:
    """Operations that record the time of every call, synchronizing with the device before and after it.

    It wraps a backend's operations and does not inherit from them, so that a call of one operation by another is not
    recorded twice. It is for one thread.

    Args:
        ops: the operations.

    Attributes:
        rows: the recorded calls, by label.
        convolutions: the shapes of all convolutions.
    """

    def __init__(self, ops: Operations) -> None:
        self._ops = ops
        self.rows: dict[str, Row] = {}
        self.convolutions: set[ConvShape] = set()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._ops, name)
        public_method = isinstance(value, MethodType) and not name.startswith("_")
        return partial(self._call, name, value) if public_method else value

    def _call(self, name: str, method: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        if inputs and isinstance(inputs[0], _Kept):
            product, inputs = inputs[0].product, (inputs[0].saved, *inputs[1:])
            flop = 2 * product.flop
        else:
            product = PRODUCTS[name](*inputs, **options) if name in PRODUCTS else Product()
            flop = product.flop
        if name == "conv2d":
            x, w, _, *stride = inputs
            self.convolutions.add(ConvShape(tuple(x.shape), tuple(w.shape), *(stride[:1] or [1])))
        wait = self._ops.backend.synchronize
        wait()
        began = time.perf_counter()
        result = method(*inputs, **options)
        wait()
        elapsed = time.perf_counter() - began
        forward = hasattr(self._ops, f"{name}_backward")
        moved = nbytes(inputs) + nbytes(result[0] if forward else result)
        self._book(f"{name} {product.shape}".strip(), elapsed, flop, moved)
        if self._ops.training and forward:
            y, saved = result
            return y, _Kept(saved, product)
        return result

    def _book(self, label: str, seconds: float, flop: int, moved: int) -> None:
        row = self.rows.setdefault(label, Row(label))
        row.calls += 1
        row.seconds += seconds
        row.flop += flop
        row.moved += moved


def nbytes(values: Any) -> int:
    """Return the total bytes of the arrays among `values`, including those in nested tuples."""
    if isinstance(values, tuple):
        return sum(map(nbytes, values))
    return int(values.nbytes) if hasattr(values, "nbytes") else 0
