"""Winograd's transforms of tiles on vectors of channels, which `tinyddpm.ops.numba.winograd` does between products.

A square is transformed along all rows, then along all columns, each by a dozen additions of vectors; a product with the
Kronecker product of the matrices would take 36 multiply-adds for each number. A transform reads a square of pixels from
an image and writes rows of 36 matrices, or the reverse, without a copy in between. V, whose squares overlap, is
computed line by line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyddpm.ops.cpu.winograd import OUT, TILE
from tinyddpm.ops.numba.lanes import INTEGER, Lanes, Memory

Transform = Callable[[Sequence[Lanes]], list[Lanes]]


def _b_t(d: Sequence[Lanes]) -> list[Lanes]:
    """Return the six vectors Bᵀ d of six."""
    even, odd = d[4] - 4.0 * d[2], d[3] - 4.0 * d[1]
    even_2, odd_2 = d[4] - d[2], 2.0 * (d[3] - d[1])
    first, last = 4.0 * d[0] + (d[4] - 5.0 * d[2]), 4.0 * d[1] + (d[5] - 5.0 * d[3])
    return [first, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, last]


def _a_t(m: Sequence[Lanes]) -> list[Lanes]:
    """Return the four vectors Aᵀ m of six."""
    plus, minus, plus_2, minus_2 = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [m[0] + plus + plus_2, minus + 2.0 * minus_2, plus + 4.0 * plus_2, m[5] + (minus + 8.0 * minus_2)]


def _a(y: Sequence[Lanes]) -> list[Lanes]:
    """Return the six vectors A y of four."""
    even, odd = y[0] + y[2], y[1] + y[3]
    even_2, odd_2 = y[0] + 4.0 * y[2], 2.0 * (y[1] + 4.0 * y[3])
    return [y[0], even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, y[3]]


def _g(w: Sequence[Lanes]) -> list[Lanes]:
    """Return the six vectors G w of three."""
    even, even_2 = (-1 / 6) * (w[0] + w[2]), (1 / 24) * w[0] + (1 / 6) * w[2]
    odd, odd_2 = (1 / 6) * w[1], (1 / 12) * w[1]
    return [0.25 * w[0], even - odd, even + odd, even_2 + odd_2, even_2 - odd_2, w[2]]


def _g_t(u: Sequence[Lanes]) -> list[Lanes]:
    """Return the three vectors Gᵀ u of six."""
    plus, minus, plus_2, minus_2 = u[1] + u[2], u[2] - u[1], u[3] + u[4], u[3] - u[4]
    return [
        0.25 * u[0] + ((1 / 24) * plus_2 - (1 / 6) * plus),
        (1 / 6) * minus + (1 / 12) * minus_2,
        u[5] + ((1 / 6) * plus_2 - (1 / 6) * plus),
    ]


def _both_ways(transform: Transform, square: Sequence[Sequence[Lanes]]) -> list[list[Lanes]]:
    """Return a square transformed along its rows, then along its columns."""
    rows = [transform(row) for row in square]
    columns = [transform(column) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


class _Window:
    """A square of pixels of an image, in a function that is being compiled. Pixels outside the image are masked.

    The address of a pixel outside is replaced by that of the nearest pixel inside: a masked access is slow where the
    address belongs to no page of memory.

    Args:
        memory: the image, from the square's first number on, which may lie outside of it.
        row, column: distances between the square's rows and columns, in numbers.
        edges: top, bottom, left, right: rows top to below bottom and columns left to below right are inside.
        channels: number of channels to process.
        side: side of the square in pixels.
    """

    def __init__(self, memory: Memory, row: Any, column: Any, edges: Any, channels: Any, side: int) -> None:
        self.memory, self.distances, self.channels, self.side = memory, (row, column), channels, side
        self.edges = cgutils.unpack_tuple(memory.builder, edges)

    def each_vector(self, emit: Callable[[Any, list[list[tuple[Any, Any]]]], None]) -> None:
        """Emit two loops over vectors of channels: one without masks, run if all lies inside, and one with masks.

        `emit` receives the vector's first channel, and for each row of the square a list of (place, mask), with None
        for the mask in the loop without.
        """
        builder = self.memory.builder
        with builder.if_else(self._whole()) as branches:
            for masked, branch in zip((False, True), branches, strict=True):
                step = INTEGER(self.memory.count)
                with (
                    branch,
                    cgutils.for_range_slice(builder, INTEGER(0), self.channels, step, inc=True) as (channel, _),
                ):
                    emit(channel, self._places(channel, masked))

    def _whole(self) -> Any:
        """Return whether all of the square lies inside and the channels fill whole vectors."""
        builder, zero, side = self.memory.builder, INTEGER(0), INTEGER(self.side)
        spare = builder.and_(self.channels, INTEGER(self.memory.count - 1))
        whole = builder.icmp_signed("==", spare, zero)
        for edge, value in zip(self.edges, (zero, side, zero, side), strict=True):
            whole = builder.and_(whole, builder.icmp_signed("==", edge, value))
        return whole

    def _places(self, channel: Any, masked: bool) -> list[list[tuple[Any, Any]]]:
        builder = self.memory.builder
        on = self.memory.first(builder.sub(self.channels, channel)) if masked else None
        top, bottom, left, right = self.edges
        row, column = self.distances
        rows = _along(self.memory, row, top, bottom, on, self.side)
        columns = _along(self.memory, column, left, right, on, self.side)
        return [
            [
                (builder.add(channel, builder.add(row, column)), builder.and_(of_row, of_column) if masked else None)
                for column, of_column in columns
            ]
            for row, of_row in rows
        ]


def _along(memory: Memory, distance: Any, first: Any, stop: Any, on: Any, side: int) -> list[tuple[Any, Any]]:
    """Return (offset, mask) of `side` rows or columns; the mask is `on` from `first` to below `stop`, else off."""
    builder = memory.builder
    indices = [INTEGER(i) for i in range(side)]
    if on is None:
        return [(builder.mul(distance, i), None) for i in indices]
    last, found = builder.sub(stop, INTEGER(1)), []
    for i in indices:
        under, over = builder.icmp_signed("<", i, first), builder.icmp_signed(">", i, last)
        nearest = builder.select(under, first, builder.select(over, last, i))
        mask = builder.select(builder.or_(under, over), on.type(0), on)
        found.append((builder.mul(distance, nearest), mask))
    return found


def _from_window(transform: Transform, side: int) -> Any:
    """Return the function that transforms a square of `side` × `side` pixels into 36 rows of channels, `step` apart."""

    @intrinsic  # type: ignore[untyped-decorator]
    def function(typing: Any, image: Any, at: Any, row: Any, column: Any, edges: Any, channels: Any,
                 planes: Any, to: Any, step: Any) -> Any:  # fmt: skip
        n = types.intp
        signature = types.void(image, n, n, n, types.UniTuple(n, 4), n, planes, n, n)

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            image, at, row, column, edges, channels, planes, to, step = arguments
            source = Memory(context, builder, signature.args[0], image, at)
            target = Memory(context, builder, signature.args[6], planes, to)

            def through(channel: Any, places: list[list[tuple[Any, Any]]]) -> None:
                square = [[source.load(place, mask) for place, mask in row] for row in places]
                for k, vector in enumerate(chain(*_both_ways(transform, square))):
                    target.store(vector, builder.add(channel, builder.mul(step, INTEGER(k))))

            _Window(source, row, column, edges, channels, side).each_vector(through)
            return context.get_dummy_value()

        return signature, emit

    return function


def _to_window(transform: Transform, side: int) -> Any:
    """Return the function that transforms 36 rows of channels into a square of pixels, and adds bias and residual.

    The residual is added if `adds` is not 0, from an array laid out like the image.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def function(typing: Any, planes: Any, at: Any, step: Any, image: Any, to: Any, row: Any, column: Any,
                 edges: Any, channels: Any, bias: Any, first: Any, residual: Any, adds: Any) -> Any:  # fmt: skip
        n = types.intp
        signature = types.void(planes, n, n, image, n, n, n, types.UniTuple(n, 4), n, bias, n, residual, n)

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            planes, at, step, image, to, row, column, edges, channels, bias, first, residual, adds = arguments
            source = Memory(context, builder, signature.args[0], planes, at)
            target = Memory(context, builder, signature.args[3], image, to)
            constant = Memory(context, builder, signature.args[9], bias, first)
            other = Memory(context, builder, signature.args[11], residual, to)
            steps = [[builder.mul(step, INTEGER(TILE * i + j)) for j in range(TILE)] for i in range(TILE)]

            def through(channel: Any, places: list[list[tuple[Any, Any]]]) -> None:
                square = [[source.load(builder.add(channel, step)) for step in row] for row in steps]
                spare = places[0][0][1] is not None
                added = constant.load(channel, target.first(builder.sub(channels, channel)) if spare else None)
                pixels = [pixel + added for pixel in chain(*_both_ways(transform, square))]
                with builder.if_else(builder.icmp_signed("!=", adds, INTEGER(0))) as (with_residual, without):
                    with with_residual:
                        for pixel, (place, mask) in zip(pixels, chain(*places), strict=True):
                            target.store(pixel + other.load(place, mask), place, mask)
                    with without:
                        for pixel, (place, mask) in zip(pixels, chain(*places), strict=True):
                            target.store(pixel, place, mask)

            _Window(target, row, column, edges, channels, side).each_vector(through)
            return context.get_dummy_value()

        return signature, emit

    return function


@intrinsic  # type: ignore[untyped-decorator]
def line_to_v(typing: Any, source: Any, at: Any, step: Any, first: Any, stop: Any, channels: Any,
               target: Any, to: Any, step_to: Any) -> Any:  # fmt: skip
    """Write Bᵀ of six vectors `step` apart. Those before `first` and from `stop` on count as 0, as do surplus lanes."""
    n = types.intp
    signature = types.void(source, n, n, n, n, n, target, n, n)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, at, step, first, stop, channels, target, to, step_to = arguments
        read = Memory(context, builder, signature.args[0], source, at)
        written = Memory(context, builder, signature.args[6], target, to)
        whole = builder.icmp_signed(">=", channels, INTEGER(read.count))
        for edge, value in ((first, 0), (stop, TILE)):
            whole = builder.and_(whole, builder.icmp_signed("==", edge, INTEGER(value)))
        with builder.if_else(whole) as branches:
            for masked, branch in zip((False, True), branches, strict=True):
                with branch:
                    line = _along(read, step, first, stop, read.first(channels) if masked else None, TILE)
                    for k, vector in enumerate(_b_t([read.load(place, mask) for place, mask in line])):
                        written.store(vector, builder.mul(step_to, INTEGER(k)))
        return context.get_dummy_value()

    return signature, emit


image_to_dm, weights_to_u = _from_window(_a, OUT), _from_window(_g, 3)
m_to_image, du_to_weights = _to_window(_a_t, OUT), _to_window(_g_t, 3)
