"""3×3 convolution by Winograd's minimal filtering, F(4×4, 3×3) (Lavin, Gray 2015, arXiv 1509.09308), compiled.

The mathematics is that of `tinyddpm.ops.cpu.winograd`. Here a few dozen tiles go through all steps before the next
tiles do, so that V, (36, tiles, C_in), and M, (36, tiles, width of a panel), stay in the cache between steps. U is
stored in panels, (panels, 36, C_in, width), as the products read it.

The backward uses the same steps. dx is the convolution of dy with the weights rotated by 180° and their channels
swapped. dw = Gᵀ (Vᵀ dM) G with dM = A dy Aᵀ; V is computed from x again, because it is over twice as large as x.
"""

from __future__ import annotations

import numpy as np

from tinyddpm.ops.cpu.blocks import NDArray
from tinyddpm.ops.cpu.winograd import OUT, TILE, tiles
from tinyddpm.ops.numba.compiling import ahead, compiled
from tinyddpm.ops.numba.lanes import BYTES
from tinyddpm.ops.numba.products import FEW, VECTORS, add, multiply, panel_width, prefetch, scratch
from tinyddpm.ops.numba.sharing import PASS, share
from tinyddpm.ops.numba.transforms import du_to_weights, image_to_dm, line_to_v, m_to_image, weights_to_u

PRODUCTS = TILE * TILE
"""Number of matrix products that replace a convolution."""

BLOCK_BYTES = 3 << 17
"""Bytes of V and M together for a block of tiles, which goes through all steps before the next: they fit the cache."""

GRADIENT_TILES = 32
"""Least number of tiles whose products are added to dU at once: each addition reads and writes all of dU."""

SUMS = TILE + 1
"""Index of the matrix of dM that holds the sum of dy over each tile, because the second row of A is all ones."""

Shape = tuple[int, ...]


@compiled
def _v_of(x: NDArray, shape: Shape, first: int, count: int, v: NDArray, step: int, stride: int) -> None:
    """Write V for `count` rows of tiles of x from row `first` on.

    Columns of pixels are transformed once, into `line`, (6, columns, lanes), where overlapping tiles share them.
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
                line_to_v(x, at, width * c, top, bottom, c - channel, line, (j + 1) * lanes, row)
            for t in range(columns):
                to = (r * columns + t) * stride + channel
                for k in range(TILE):
                    at = k * row + OUT * t * lanes
                    line_to_v(line, at, lanes, 0, TILE, lanes, v, to + k * TILE * step, step)


@compiled
def _rows_at_once(tiles: int, columns: int) -> int:
    """Return a number of rows, of `columns` tiles each, that have about `tiles` tiles, a multiple of FEW, together."""
    together = 1
    while together * columns % FEW:
        together *= 2
    return max(1, tiles // (columns * together)) * together


@ahead("f4[::1], UniTuple(i8, 4), f4[::1], f4[::1], f4[::1], f4[::1], i8, i8")
@compiled
def _convolve(
    x: NDArray, shape: Shape, u: NDArray, b: NDArray, residual: NDArray, y: NDArray, start: int, stop: int
) -> None:
    """Write y, plus the residual unless it is empty, for rows of tiles `start` to below `stop` of all images."""
    _, height, width, c_in = shape
    c_out, lanes, panel = b.size, BYTES // x.itemsize, VECTORS * BYTES // x.itemsize
    rows, columns = (height + OUT - 1) // OUT, (width + OUT - 1) // OUT
    stride = (c_in + lanes - 1) // lanes * lanes
    block = min(_rows_at_once(BLOCK_BYTES // (PRODUCTS * x.itemsize * (stride + panel)), columns), max(1, stop - start))
    most = -(-block * columns // FEW) * FEW
    v_step, m_step = most * stride + lanes, most * panel + lanes
    v, m = scratch(PRODUCTS * v_step, x), scratch(PRODUCTS * m_step, x)
    adds, plane = 1 if residual.size else 0, _plane(c_in, x.itemsize)
    for first in range(start, stop, block):
        tiles = min(block, stop - first) * columns
        _v_of(x, shape, first, min(block, stop - first), v, v_step, stride)
        for p in range((c_out + panel - 1) // panel):
            for k in range(PRODUCTS):
                of_u = (p * PRODUCTS + k) * plane
                multiply(m, k * m_step, panel, v, k * v_step, stride, 1,
                         u, of_u, panel, -(-tiles // FEW) * FEW, c_in, 0)  # fmt: skip
            for t in range(tiles):
                n, i, j = _tile(first * columns + t, rows, columns)
                edges = (0, min(OUT, height - i), 0, min(OUT, width - j))
                to = ((n * height + i) * width + j) * c_out + p * panel
                m_to_image(m, t * panel, m_step, y, to, width * c_out, c_out, edges, min(panel, c_out - p * panel),
                            b, p * panel, residual, adds)  # fmt: skip


@ahead("f4[::1], UniTuple(i8, 4), f4[::1], f4[::1], f4[::1], i8, i8")
@compiled
def _gradient(x: NDArray, shape: Shape, dy: NDArray, du: NDArray, db: NDArray, start: int, stop: int) -> None:
    """Write panels `start` to below `stop` of dU, laid out like U, and add Σ dy of their columns to db, (C_out,)."""
    images, height, width, c_in = shape
    c_out, lanes, panel = db.size, BYTES // x.itemsize, VECTORS * BYTES // x.itemsize
    begin, channels, panels = start * panel, min(c_out, stop * panel) - start * panel, stop - start
    plane = _plane(c_in, x.itemsize)
    rows, columns = (height + OUT - 1) // OUT, (width + OUT - 1) // OUT
    v_stride, m_stride = (c_in + lanes - 1) // lanes * lanes, panels * panel
    fitting = max(GRADIENT_TILES, BLOCK_BYTES // (PRODUCTS * x.itemsize * (v_stride + m_stride)))
    block = min(_rows_at_once(fitting, columns), max(1, images * rows))
    v_step, m_step = block * columns * v_stride + lanes, block * columns * m_stride + lanes
    v, m = scratch(PRODUCTS * v_step, x), scratch(PRODUCTS * m_step, x)
    for first in range(0, max(1, images * rows), block):
        tiles = min(block, images * rows - first) * columns
        _v_of(x, shape, first, min(block, images * rows - first), v, v_step, v_stride)
        for t in range(tiles):
            n, i, j = _tile(first * columns + t, rows, columns)
            edges = (0, min(OUT, height - i), 0, min(OUT, width - j))
            at = ((n * height + i) * width + j) * c_out + begin
            image_to_dm(dy, at, width * c_out, c_out, edges, channels, m, t * m_stride, m_step)
            add(db, begin, m, SUMS * m_step + t * m_stride, channels)
        for p in range(panels):
            for k in range(PRODUCTS):
                of_du = ((start + p) * PRODUCTS + k) * plane
                multiply(du, of_du, panel, v, k * v_step, 1, v_stride,
                         m, k * m_step + p * panel, m_stride, c_in, tiles, first)  # fmt: skip


@compiled
def _tile(t: int, rows: int, columns: int) -> tuple[int, int, int]:
    """Return the image of tile t, and the row and column of the tile's first output."""
    n, place = t // (rows * columns), t % (rows * columns)
    return n, OUT * (place // columns), OUT * (place % columns)


@ahead("i8, i8")
@compiled
def _plane(c_in: int, itemsize: int) -> int:
    """Return the distance between the 36 matrices of a panel, in numbers: their size and one cache line.

    Without that line, distances could be powers of two, which map to the same few sets of the cache.
    """
    return (c_in * VECTORS + 1) * (BYTES // itemsize)


@ahead("f4[::1], UniTuple(i8, 2), f4[::1], i8, i8, i8")
@compiled
def _transform_weights(w: NDArray, shape: Shape, u: NDArray, turned: int, start: int, stop: int) -> None:
    """Write panels `start` to below `stop` of U of w, (3, 3, C_in, C_out), rotated by 180° if `turned` is not 0."""
    c_in, c_out = shape
    panel, plane = VECTORS * BYTES // w.itemsize, _plane(c_in, w.itemsize)
    at, row, column = 0, 3 * c_in * c_out, c_in * c_out
    if turned:
        at, row, column = 2 * row + 2 * column, -row, -column
    for p in range(start, stop):
        for i in range(c_in):
            weights_to_u(w, at + i * c_out + p * panel, row, column, (0, 3, 0, 3), min(panel, c_out - p * panel),
                          u, p * PRODUCTS * plane + i * panel, plane)  # fmt: skip


@ahead("f4[::1], f4[::1], UniTuple(i8, 2), f4[::1], i8, i8")
@compiled
def _weight_gradient(du: NDArray, dw: NDArray, shape: Shape, zeros: NDArray, start: int, stop: int) -> None:
    """Write panels `start` to below `stop` of dw = Gᵀ dU G."""
    c_in, c_out = shape
    panel, plane = VECTORS * BYTES // dw.itemsize, _plane(c_in, dw.itemsize)
    for p in range(start, stop):
        for i in range(c_in):
            du_to_weights(du, p * PRODUCTS * plane + i * panel, plane, dw, i * c_out + p * panel,
                           3 * c_in * c_out, c_in * c_out, (0, 3, 0, 3), min(panel, c_out - p * panel),
                           zeros, p * panel, dw, 0)  # fmt: skip


def transformed(w: NDArray, turned: bool = False) -> NDArray:
    """Return U, flat and in panels, of w (3, 3, C_in, C_out), rotated by 180° if `turned`."""
    u, panels = _room(w)
    flat = w.reshape(-1)
    share(lambda first, last: _transform_weights(flat, w.shape[2:], u, int(turned), first, last), panels, PASS * u.size)
    return u


def convolve(x: NDArray, u: NDArray, b: NDArray, residual: NDArray | None = None) -> NDArray:
    """Return the zero-padded convolution of x with `transformed` weights, plus b and a residual if given.

    Idle threads share the rows of tiles.
    """
    n, height, width, c_in = x.shape
    rows, columns = tiles(height, width)
    y = np.empty((n, height, width, len(b)), x.dtype)
    other = np.empty(0, x.dtype) if residual is None else residual.reshape(-1)
    x_flat, y_flat = x.reshape(-1), y.reshape(-1)
    products = n * rows * columns * PRODUCTS * c_in * len(b)
    share(lambda first, last: _convolve(x_flat, x.shape, u, b, other, y_flat, first, last), n * rows, products)
    return y


def convolve_backward(x: NDArray, w: NDArray, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return (dx, dw, db) of `convolve`, dw with respect to the weights before their transform."""
    u = transformed(np.ascontiguousarray(w.transpose(0, 1, 3, 2)), turned=True)
    dx = convolve(dy, u, np.zeros(w.shape[2], x.dtype))
    (du, panels), dw, (db, zeros) = _room(w), np.empty_like(w), np.zeros((2, w.shape[3]), x.dtype)
    x_flat, dy_flat, dw_flat = x.reshape(-1), dy.reshape(-1), dw.reshape(-1)

    def gradient(first: int, last: int) -> None:
        _gradient(x_flat, x.shape, dy_flat, du, db, first, last)
        _weight_gradient(du, dw_flat, w.shape[2:], zeros, first, last)

    share(gradient, panels, PRODUCTS * x.size // OUT**2 * w.shape[3] + PASS * du.size)
    return dx, dw, db


def _room(w: NDArray) -> tuple[NDArray, int]:
    """Return memory for U of w, flat, and its number of panels."""
    c_in, c_out = w.shape[2:]
    panels = -(-c_out // panel_width(w.itemsize))
    u: NDArray = scratch(panels * PRODUCTS * _plane(c_in, w.itemsize), w.reshape(-1))
    return u, panels
