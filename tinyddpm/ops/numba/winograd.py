"""3×3 convolution by Winograd's minimal filtering, F(4×4, 3×3) (Lavin, Gray 2015, arXiv 1509.09308), compiled.

`tinyddpm.ops.cpu.winograd` has the mathematics. Here a few dozen tiles go through all of it before the next ones do:
V (36, tiles, C_in) and M (36, tiles, one panel) are kept between steps, and both stay in the cache. U lies as panels,
(panels, 36, C_in, width), as the products read it. Transforms work on a register's width of channels: 36 vectors are
loaded, taken through six additions or so each, along rows and then along columns, and stored.

A backward is no other algorithm. dx is the convolution of dy with the weights turned by half a turn, channels swapped.
dw = Gᵀ (Vᵀ dM) G, with V of x made again, as it is over twice as large as x, and dM = A dy Aᵀ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyddpm.ops.cpu.blocks import NDArray
from tinyddpm.ops.cpu.winograd import OUT, TILE, tiles
from tinyddpm.ops.numba.compiling import compiled
from tinyddpm.ops.numba.lanes import BYTES, Lanes, Memory
from tinyddpm.ops.numba.products import FEW, VECTORS, add, multiply, panel_width, prefetch, scratch
from tinyddpm.ops.numba.sharing import share

PRODUCTS = TILE * TILE
"""Matrix products in the place of a convolution."""

BLOCK_BYTES = 1 << 19
"""Bytes of V and M together of the tiles that are taken through all steps before the next."""

GRADIENT_TILES = 64
"""Tiles whose products are added to dU at once, at least: every time all of dU is read and written."""

SUMS = TILE + 1
"""The product whose dM is the sum of a tile's dy: A's second row is of ones."""

INTEGER = ir.IntType(64)

Shape = tuple[int, ...]

Transform = Callable[[Sequence[Lanes]], list[Lanes]]


def _b_t(d: Sequence[Lanes]) -> list[Lanes]:
    """Return Bᵀ d, six of six."""
    even, odd = d[4] - 4.0 * d[2], d[3] - 4.0 * d[1]
    even_2, odd_2 = d[4] - d[2], 2.0 * (d[3] - d[1])
    first, last = 4.0 * d[0] + (d[4] - 5.0 * d[2]), 4.0 * d[1] + (d[5] - 5.0 * d[3])
    return [first, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, last]


def _a_t(m: Sequence[Lanes]) -> list[Lanes]:
    """Return Aᵀ m, four of six."""
    plus, minus, plus_2, minus_2 = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [m[0] + plus + plus_2, minus + 2.0 * minus_2, plus + 4.0 * plus_2, m[5] + (minus + 8.0 * minus_2)]


def _a(y: Sequence[Lanes]) -> list[Lanes]:
    """Return A y, six of four."""
    even, odd = y[0] + y[2], y[1] + y[3]
    even_2, odd_2 = y[0] + 4.0 * y[2], 2.0 * (y[1] + 4.0 * y[3])
    return [y[0], even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, y[3]]


def _g(w: Sequence[Lanes]) -> list[Lanes]:
    """Return G w, six of three."""
    even, even_2 = (-1 / 6) * (w[0] + w[2]), (1 / 24) * w[0] + (1 / 6) * w[2]
    odd, odd_2 = (1 / 6) * w[1], (1 / 12) * w[1]
    return [0.25 * w[0], even - odd, even + odd, even_2 + odd_2, even_2 - odd_2, w[2]]


def _g_t(u: Sequence[Lanes]) -> list[Lanes]:
    """Return Gᵀ u, three of six."""
    plus, minus, plus_2, minus_2 = u[1] + u[2], u[2] - u[1], u[3] + u[4], u[3] - u[4]
    return [
        0.25 * u[0] + ((1 / 24) * plus_2 - (1 / 6) * plus),
        (1 / 6) * minus + (1 / 12) * minus_2,
        u[5] + ((1 / 6) * plus_2 - (1 / 6) * plus),
    ]


def _both_ways(transform: Transform, square: Sequence[Sequence[Lanes]]) -> list[list[Lanes]]:
    """Return rows and columns of a square transformed."""
    rows = [transform(row) for row in square]
    columns = [transform(column) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


class _Window:
    """A square of pixels of an image, while a function is compiled. Nothing outside of the image is read or written.

    In the place of a pixel outside stands the nearest inside, masked: a processor is slow to mask a page that is not
    there.

    Args:
        memory: of the image, from the square's first number on, be it inside or outside.
        row, column: the distances of the square's rows and columns.
        edges: top, bottom, left, right: rows from top to below bottom, columns from left to below right are inside.
        channels: of the image, from the first on.
        side: of the square, in pixels.
    """

    def __init__(self, memory: Memory, row: Any, column: Any, edges: Any, channels: Any, side: int) -> None:
        self.memory, self.distances, self.channels, self.side = memory, (row, column), channels, side
        self.edges = cgutils.unpack_tuple(memory.builder, edges)

    def each_vector(self, emit: Callable[[Any, list[list[tuple[Any, Any]]]], None]) -> None:
        """Emit a loop over channels, a vector each; a loop without masks where all is inside, and one with.

        `emit` is given the vector's first channel, and rows of places with their masks, None where there are none.
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
        """Return whether all of the square lies inside, and vectors of channels have no lanes to spare."""
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
    """Return where so many rows or columns lie, and the masks of those: `on`, and off outside of first ... stop."""
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
    """Return the function that transforms a square of so many pixels, and writes 36 rows of channels `step` apart."""

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
    """Return the function that makes a square of so many pixels of 36 rows of channels, with bias and residual added.

    The residual is read where the pixel is, if `adds` is not 0.
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
                added = constant.load(
                    channel, None if places[0][0][1] is None else target.first(builder.sub(channels, channel))
                )
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
def _line_to_v(typing: Any, source: Any, at: Any, step: Any, first: Any, stop: Any, channels: Any,
               target: Any, to: Any, step_to: Any) -> Any:  # fmt: skip
    """Write Bᵀ of six vectors `step` apart; those before `first` and from `stop` on, and lanes to spare, are zero."""
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


_image_to_dm, _weights_to_u = _from_window(_a, OUT), _from_window(_g, 3)
_m_to_image, _du_to_weights = _to_window(_a_t, OUT), _to_window(_g_t, 3)


@compiled
def _v_of(x: NDArray, shape: Shape, first: int, count: int, v: NDArray, step: int, stride: int) -> None:
    """Write V of some rows of tiles of x.

    What columns of pixels become serves two tiles where these overlap, and lies in `line`, (6, columns, lanes).
    """
    _, height, width, c = shape
    lanes = BYTES // x.itemsize
    rows, columns = (height + OUT - 1) // OUT, (width + OUT - 1) // OUT
    row = (OUT * columns + 2) * lanes
    line = scratch(TILE * row, x)
    for k in range(line.size):
        line[k] = 0
    for r in range(count):
        n, i = (first + r) // rows, OUT * ((first + r) % rows) - 1
        top, bottom = max(0, -i), min(TILE, height - i)
        for channel in range(0, c, lanes):
            for j in range(width):
                at = ((n * height + i) * width + j) * c + channel
                for k in range(TILE, TILE + OUT):
                    prefetch(x, at + k * width * c, 0)
                _line_to_v(x, at, width * c, top, bottom, c - channel, line, (j + 1) * lanes, row)
            for t in range(columns):
                to = (r * columns + t) * stride + channel
                for k in range(TILE):
                    at = k * row + OUT * t * lanes
                    _line_to_v(line, at, lanes, 0, TILE, lanes, v, to + k * TILE * step, step)


@compiled
def _rows_at_once(tiles: int, columns: int) -> int:
    """Return a number of rows of about so many tiles together, which fill blocks of the products if that can be."""
    together = 1
    while together * columns % FEW:
        together *= 2
    return max(1, tiles // (columns * together)) * together


@compiled
def _convolve(
    x: NDArray, shape: Shape, u: NDArray, b: NDArray, residual: NDArray, y: NDArray, start: int, stop: int
) -> None:
    """Write what rows of tiles from `start` to below `stop` become to y; the residual is added if it has elements."""
    _, height, width, c_in = shape
    c_out, lanes, panel = b.size, BYTES // x.itemsize, VECTORS * BYTES // x.itemsize
    rows, columns = (height + OUT - 1) // OUT, (width + OUT - 1) // OUT
    stride = (c_in + lanes - 1) // lanes * lanes
    block = min(_rows_at_once(BLOCK_BYTES // (PRODUCTS * x.itemsize * (stride + panel)), columns), max(1, stop - start))
    most = -(-block * columns // FEW) * FEW
    v_step, m_step = most * stride + lanes, most * panel + lanes
    v, m = scratch(PRODUCTS * v_step, x), scratch(PRODUCTS * m_step, x)
    adds = 1 if residual.size else 0
    for first in range(start, stop, block):
        tiles = min(block, stop - first) * columns
        _v_of(x, shape, first, min(block, stop - first), v, v_step, stride)
        for p in range((c_out + panel - 1) // panel):
            for k in range(PRODUCTS):
                of_u = (p * PRODUCTS + k) * c_in * panel
                multiply(m, k * m_step, panel, v, k * v_step, stride, 1,
                         u, of_u, panel, -(-tiles // FEW) * FEW, c_in, 0)  # fmt: skip
            for t in range(tiles):
                n, i, j = _tile(first * columns + t, rows, columns)
                edges = (0, min(OUT, height - i), 0, min(OUT, width - j))
                to = ((n * height + i) * width + j) * c_out + p * panel
                _m_to_image(m, t * panel, m_step, y, to, width * c_out, c_out, edges, min(panel, c_out - p * panel),
                            b, p * panel, residual, adds)  # fmt: skip


@compiled
def _gradient(x: NDArray, shape: Shape, dy: NDArray, du: NDArray, db: NDArray) -> None:
    """Write dU, in panels as U, and add to db, (C_out,)."""
    images, height, width, c_in = shape
    c_out, lanes, panel = db.size, BYTES // x.itemsize, VECTORS * BYTES // x.itemsize
    panels = (c_out + panel - 1) // panel
    rows, columns = (height + OUT - 1) // OUT, (width + OUT - 1) // OUT
    v_stride, m_stride = (c_in + lanes - 1) // lanes * lanes, panels * panel
    fitting = max(GRADIENT_TILES, BLOCK_BYTES // (PRODUCTS * x.itemsize * (v_stride + m_stride)))
    block = min(_rows_at_once(fitting, columns), max(1, images * rows))
    v_step, m_step = block * columns * v_stride + lanes, block * columns * m_stride + lanes
    v, m = scratch(PRODUCTS * v_step, x), scratch(PRODUCTS * m_step, x)
    for first in range(0, images * rows, block):
        tiles = min(block, images * rows - first) * columns
        _v_of(x, shape, first, min(block, images * rows - first), v, v_step, v_stride)
        for t in range(tiles):
            n, i, j = _tile(first * columns + t, rows, columns)
            edges = (0, min(OUT, height - i), 0, min(OUT, width - j))
            at = ((n * height + i) * width + j) * c_out
            _image_to_dm(dy, at, width * c_out, c_out, edges, c_out, m, t * m_stride, m_step)
            add(db, 0, m, SUMS * m_step + t * m_stride, c_out)
        for p in range(panels):
            for k in range(PRODUCTS):
                of_du = (p * PRODUCTS + k) * c_in * panel
                multiply(du, of_du, panel, v, k * v_step, 1, v_stride,
                         m, k * m_step + p * panel, m_stride, c_in, tiles, first)  # fmt: skip


@compiled
def _tile(t: int, rows: int, columns: int) -> tuple[int, int, int]:
    """Return the image of the t-th tile, and its first output's row and column."""
    n, place = t // (rows * columns), t % (rows * columns)
    return n, OUT * (place // columns), OUT * (place % columns)


@compiled
def _transform_weights(w: NDArray, shape: Shape, u: NDArray, turned: int) -> None:
    """Write U of w, (3, 3, C_in, C_out), or, if `turned` is not 0, of w turned by half a turn."""
    c_in, c_out = shape
    panel = VECTORS * BYTES // w.itemsize
    at, row, column = 0, 3 * c_in * c_out, c_in * c_out
    if turned:
        at, row, column = 2 * row + 2 * column, -row, -column
    for i in range(c_in):
        for p in range((c_out + panel - 1) // panel):
            _weights_to_u(w, at + i * c_out + p * panel, row, column, (0, 3, 0, 3), min(panel, c_out - p * panel),
                          u, (p * PRODUCTS * c_in + i) * panel, c_in * panel)  # fmt: skip


@compiled
def _weight_gradient(du: NDArray, dw: NDArray, shape: Shape, zeros: NDArray) -> None:
    """Write Gᵀ dU G."""
    c_in, c_out = shape
    panel = VECTORS * BYTES // dw.itemsize
    for i in range(c_in):
        for p in range((c_out + panel - 1) // panel):
            _du_to_weights(du, (p * PRODUCTS * c_in + i) * panel, c_in * panel, dw, i * c_out + p * panel,
                           3 * c_in * c_out, c_in * c_out, (0, 3, 0, 3), min(panel, c_out - p * panel),
                           zeros, p * panel, dw, 0)  # fmt: skip


def transformed(w: NDArray, turned: bool = False) -> NDArray:
    """Return U, in panels one after the other, of w (3, 3, C_in, C_out), or of w turned by half a turn."""
    u = _panels(w)
    _transform_weights(w.reshape(-1), w.shape[2:], u, int(turned))
    return u


def convolve(x: NDArray, u: NDArray, b: NDArray, residual: NDArray | None = None) -> NDArray:
    """Return the zero-padded convolution of x with `transformed` weights, plus b and a residual if given.

    Idle threads take their shares of the rows of tiles.
    """
    n, height, width, c_in = x.shape
    rows, columns = tiles(height, width)
    y = np.empty((n, height, width, len(b)), x.dtype)
    other = np.empty(0, x.dtype) if residual is None else residual.reshape(-1)
    x_flat, y_flat = x.reshape(-1), y.reshape(-1)
    products = n * rows * columns * PRODUCTS * c_in * len(b)
    share(lambda part: _convolve(x_flat, x.shape, u, b, other, y_flat, part.start, part.stop), n * rows, products)
    return y


def convolve_backward(x: NDArray, w: NDArray, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return (dx, dw, db) of `convolve`, with respect to x, to the weights themselves and to b."""
    u = transformed(np.ascontiguousarray(w.transpose(0, 1, 3, 2)), turned=True)
    dx = convolve(dy, u, np.zeros(w.shape[2], x.dtype))
    du, dw, db, zeros = _panels(w), np.empty_like(w), *np.zeros((2, w.shape[3]), x.dtype)
    _gradient(x.reshape(-1), x.shape, dy.reshape(-1), du, db)
    _weight_gradient(du, dw.reshape(-1), w.shape[2:], zeros)
    return dx, dw, db


def _panels(w: NDArray) -> NDArray:
    """Return memory for U of w."""
    c_in, c_out = w.shape[2:]
    width = panel_width(w.itemsize)
    u: NDArray = scratch(-(-c_out // width) * PRODUCTS * c_in * width, w.reshape(-1))
    return u
