"""Inception-v3 as used by the Fréchet inception distance: TensorFlow's graph of 5 December 2015, forward only.

The network is Szegedy et al.'s (2016, arXiv 1512.00567, table 1 and figures 5 to 7, 10), with two differences: average
pools do not count the zeros of the padding, and the last block has a max pool in the place of an average pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal, Protocol, TypeAlias

from array_api_compat import device

from tinyddpm.backend import Array
from tinyddpm.ops import Operations
from tinyddpm.ops.convolution import same_padding

FEATURES = 2048
"""Channels of the last block."""

CLASSES = 1008
"""Number of logits: the 1,000 classes of ImageNet and 8 unused ones."""

Weights: TypeAlias = Mapping[str, tuple[Array, Array]]
"""Weights and bias of each unit by its path, with the batch norm folded in."""


class Step(Protocol):
    """A part of the network: a unit, a pool, or several of them in sequence or in parallel."""

    def units(self) -> Iterator[Unit]:
        """Yield its convolutions."""
        ...

    def forward(self, ops: Operations, w: Weights, x: Array) -> Array:
        """(N, H, W, C) -> (N, H', W', C')."""
        ...


@dataclass(frozen=True)
class Unit:
    """A convolution, its batch norm, and ReLU. If not `padded`, the convolution takes only windows inside x."""

    path: str
    c_in: int
    c_out: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights: (c_in, c_out) for a kernel of one pixel, otherwise (kh, kw, c_in, c_out)."""
        return (*(self.kernel if prod(self.kernel) > 1 else ()), self.c_in, self.c_out)

    def units(self) -> Iterator[Unit]:
        """Yield itself."""
        yield self

    def forward(self, ops: Operations, w: Weights, x: Array) -> Array:
        """(N, H, W, c_in) -> (N, H', W', c_out)."""
        if prod(self.kernel) == 1:
            y, _ = ops.linear(x, *w[self.path])
        elif self.padded:
            y, _ = ops.conv2d(x, *w[self.path], self.stride)
        else:
            y = conv2d_inside(ops, x, *w[self.path], self.stride)
        return ops.xp.maximum(y, _zeros(ops.xp, (), like=y))


@dataclass(frozen=True)
class Pool:
    """A 3×3 max or mean pool. Stride 1 takes the window around each pixel, stride 2 the windows inside x."""

    kind: Literal["max", "mean"]
    stride: int = 1

    def units(self) -> Iterator[Unit]:
        """Yield nothing."""
        yield from ()

    def forward(self, ops: Operations, w: Weights, x: Array) -> Array:
        """(N, H, W, C), non-negative, -> (N, H', W', C)."""
        return pool(ops.xp, x, self.kind, self.stride)


class Chain:
    """Steps in sequence."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps

    def units(self) -> Iterator[Unit]:
        """Yield the convolutions of all steps."""
        for step in self.steps:
            yield from step.units()

    def forward(self, ops: Operations, w: Weights, x: Array) -> Array:
        """(N, H, W, C) -> (N, H', W', C')."""
        for step in self.steps:
            x = step.forward(ops, w, x)
        return x


class Branches(Chain):
    """Steps in parallel: all have the same input, and their outputs are concatenated along the channels."""

    def forward(self, ops: Operations, w: Weights, x: Array) -> Array:
        """(N, H, W, C) -> (N, H', W', C')."""
        return ops.xp.concat([step.forward(ops, w, x) for step in self.steps], axis=-1)


def conv2d_inside(ops: Operations, x: Array, w: Array, b: Array, stride: int) -> Array:
    """Return the convolution over the windows inside x, (N, (H − kh) // stride + 1, (W − kw) // stride + 1, c_out).

    They are a subset of the windows of `ops.conv2d` if its padding before x is a multiple of the stride. For a 3×3
    kernel this holds once zeros after x make height and width multiples of the stride.
    """
    height, width = x.shape[1:3]
    x = _framed(ops.xp, x, (0, -height % stride), (0, -width % stride))
    y, _ = ops.conv2d(x, w, b, stride)
    i, j = (same_padding(*sizes, stride)[0] // stride for sizes in zip(x.shape[1:3], w.shape[:2], strict=True))
    rows, columns = (height - w.shape[0]) // stride + 1, (width - w.shape[1]) // stride + 1
    return y[:, i : i + rows, j : j + columns, :]


def pool(xp: Any, x: Array, kind: Literal["max", "mean"], stride: int) -> Array:
    """Return the maximum or the mean of each 3×3 window, with windows as in `Pool`. A mean excludes the padding.

    At stride 1, x is padded with zeros. As x is non-negative, they do not change a maximum.
    """
    there = xp.ones_like(x[:1, :, :, :1])
    if stride == 1:
        x, there = (_framed(xp, a, (1, 1), (1, 1)) for a in (x, there))
    if kind == "max":
        return _windows(xp.maximum, x, stride)
    return _windows(xp.add, x, stride) / _windows(xp.add, there, stride)


def _windows(together: Any, x: Array, stride: int) -> Array:
    """Reduce each 3×3 window inside x by the binary function `together`, first over rows, then over columns."""
    for axis in (1, 2):
        stop = x.shape[axis] - 2
        first, second, third = (x[(slice(None),) * axis + (slice(i, i + stop, stride), ...)] for i in range(3))
        x = together(together(first, second), third)
    return x


def _framed(xp: Any, x: Array, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
    """Return x padded with (before, after) rows and columns of zeros."""
    n, height, width, c = x.shape
    if not any(rows + columns):
        return x
    framed = _zeros(xp, (n, height + sum(rows), width + sum(columns), c), like=x)
    framed[:, rows[0] : rows[0] + height, columns[0] : columns[0] + width, :] = x
    return framed


def _zeros(xp: Any, shape: tuple[int, ...], like: Array) -> Array:
    return xp.zeros(shape, dtype=like.dtype, device=device(like))


def units(block: str, c: int, *each: tuple[Any, ...]) -> Chain:
    """Return a chain of units. `c` is the first one's c_in; `each` has the remaining arguments of `Unit`."""
    made = []
    for name, c_out, *others in each:
        made.append(Unit(f"{block}{name}", c, c_out, *others))
        c = c_out
    return Chain(*made)


def _stem() -> Chain:
    """(299, 299, 3) -> (35, 35, 192)."""
    first = (
        ("Conv2d_1a_3x3", 32, (3, 3), 2, False),
        ("Conv2d_2a_3x3", 32, (3, 3), 1, False),
        ("Conv2d_2b_3x3", 64, (3, 3)),
    )
    second = ("Conv2d_3b_1x1", 80), ("Conv2d_4a_3x3", 192, (3, 3), 1, False)
    return Chain(units("", 3, *first), Pool("max", 2), units("", 64, *second), Pool("max", 2))


def _block_5(block: str, c: int, c_pool: int) -> Branches:
    """(35, 35, c) -> (35, 35, 224 + c_pool)."""
    branch = partial(units, f"{block}.branch", c)
    return Branches(
        branch(("1x1", 64)),
        branch(("5x5_1", 48), ("5x5_2", 64, (5, 5))),
        branch(("3x3dbl_1", 64), ("3x3dbl_2", 96, (3, 3)), ("3x3dbl_3", 96, (3, 3))),
        Chain(Pool("mean"), branch(("_pool", c_pool))),
    )


def _to_17(block: str, c: int) -> Branches:
    """(35, 35, c) -> (17, 17, 480 + c)."""
    branch = partial(units, f"{block}.branch", c)
    return Branches(
        branch(("3x3", 384, (3, 3), 2, False)),
        branch(("3x3dbl_1", 64), ("3x3dbl_2", 96, (3, 3)), ("3x3dbl_3", 96, (3, 3), 2, False)),
        Pool("max", 2),
    )


def _block_6(block: str, c: int, c_7x7: int) -> Branches:
    """(17, 17, c) -> (17, 17, 768), with 7×7 kernels factored into 1×7 and 7×1."""
    branch, across, down = partial(units, f"{block}.branch", c), (1, 7), (7, 1)
    return Branches(
        branch(("1x1", 192)),
        branch(("7x7_1", c_7x7), ("7x7_2", c_7x7, across), ("7x7_3", 192, down)),
        branch(
            ("7x7dbl_1", c_7x7), ("7x7dbl_2", c_7x7, down), ("7x7dbl_3", c_7x7, across), ("7x7dbl_4", c_7x7, down),
            ("7x7dbl_5", 192, across),
        ),
        Chain(Pool("mean"), branch(("_pool", 192))),
    )  # fmt: skip


def _to_8(block: str, c: int) -> Branches:
    """(17, 17, c) -> (8, 8, 512 + c)."""
    branch, down = partial(units, f"{block}.branch", c), ((3, 3), 2, False)
    return Branches(
        branch(("3x3_1", 192), ("3x3_2", 320, *down)),
        branch(("7x7x3_1", 192), ("7x7x3_2", 192, (1, 7)), ("7x7x3_3", 192, (7, 1)), ("7x7x3_4", 192, *down)),
        Pool("max", 2),
    )


def _block_7(block: str, c: int, kind: Literal["max", "mean"]) -> Branches:
    """(8, 8, c) -> (8, 8, 2048). `kind` is the kind of its pool."""
    branch = partial(units, f"{block}.branch", c)

    def fork(name: str, c_in: int) -> Branches:
        last = partial(units, f"{block}.branch{name}", c_in)
        return Branches(last(("a", 384, (1, 3))), last(("b", 384, (3, 1))))

    return Branches(
        branch(("1x1", 320)),
        Chain(branch(("3x3_1", 384)), fork("3x3_2", 384)),
        Chain(branch(("3x3dbl_1", 448), ("3x3dbl_2", 384, (3, 3))), fork("3x3dbl_3", 384)),
        Chain(Pool(kind), branch(("_pool", 192))),
    )


NETWORK = Chain(
    _stem(),
    _block_5("Mixed_5b", 192, 32),
    _block_5("Mixed_5c", 256, 64),
    _block_5("Mixed_5d", 288, 64),
    _to_17("Mixed_6a", 288),
    _block_6("Mixed_6b", 768, 128),
    _block_6("Mixed_6c", 768, 160),
    _block_6("Mixed_6d", 768, 160),
    _block_6("Mixed_6e", 768, 192),
    _to_8("Mixed_7a", 768),
    _block_7("Mixed_7b", 1280, "mean"),
    _block_7("Mixed_7c", 2048, "max"),
)
"""Maps images (N, H, W, 3), about -1 to 1, to (N, H', W', FEATURES). Paths are as in the published file of weights."""
