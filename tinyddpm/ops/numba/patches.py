"""Convolution of any kernel and stride by products of patches, which are read from the image without being gathered.

In a padded NHWC image the kw pixels under a row of the kernel are adjacent, and those of the next output pixel begin
`stride` pixels further on. So kh rows of the image contain kh matrices of patches, (W', kw · C), and the products read
them there. For each row of the output, P(x) W is a sum of kh products, dW = P(x)ᵀ dy takes as many, and Pᵀ(dy Wᵀ) takes
one product and W' · kh additions of kw · C numbers.
"""

from __future__ import annotations

import numpy as np

from tinyddpm.ops.convolution import same_padding
from tinyddpm.ops.cpu.blocks import NDArray
from tinyddpm.ops.numba.compiling import ahead, compiled
from tinyddpm.ops.numba.lanes import BYTES
from tinyddpm.ops.numba.products import VECTORS, add, copy, multiply, panel_width, scratch
from tinyddpm.ops.numba.sharing import share

Shape = tuple[int, ...]


@compiled
def _copy_rows(
    x: NDArray, shape: Shape, n: int, i: int, top: int, left: int, rows: NDArray, kh: int, line: int
) -> None:
    """Copy rows i − top, …, i − top + kh − 1 of image n to `rows`, (kh, line), each after `left` pixels of zeros."""
    _, height, width, c = shape
    for p in range(kh):
        k, to = i - top + p, p * line + left * c
        if 0 <= k < height:
            copy(rows, to, x, (n * height + k) * width * c, width * c)
        else:
            for q in range(to, to + width * c):
                rows[q] = 0


@compiled
def _zeros(count: int, like: NDArray) -> NDArray:
    """Return `count` zeros of the dtype of `like`, aligned to a cache line."""
    zeros: NDArray = scratch(count, like)
    for k in range(count):
        zeros[k] = 0
    return zeros


@ahead(
    "f4[::1], UniTuple(i8, 4), f4[::1], f4[::1], f4[::1], f4[::1], UniTuple(i8, 4), "
    "UniTuple(i8, 2), i8, UniTuple(i8, 3), i8, i8"
)
@compiled
def _convolve(
    x: NDArray, shape: Shape, panels: NDArray, b: NDArray, residual: NDArray, y: NDArray, shape_out: Shape,
    kernel: tuple[int, ...], stride: int, padding: tuple[int, ...], start: int, stop: int,
) -> None:  # fmt: skip
    """Write rows of y from `start` to below `stop`, counted through all images."""
    (kh, kw), (top, left, right) = kernel, padding
    _, _, width, c = shape
    _, height_out, width_out, c_out = shape_out
    panel, line = VECTORS * BYTES // x.itemsize, (left + width + right) * c
    rows, sums = _zeros(kh * line, x), scratch(width_out * panel, x)
    for r in range(start, stop):
        _copy_rows(x, shape, r // height_out, stride * (r % height_out), top, left, rows, kh, line)
        for p in range((c_out + panel - 1) // panel):
            for k in range(kh):
                multiply(sums, 0, panel, rows, k * line, stride * c, 1,
                         panels, (p * kh + k) * kw * c * panel, panel, width_out, kw * c, k)  # fmt: skip
            count = min(panel, c_out - p * panel)
            for j in range(width_out):
                to = (r * width_out + j) * c_out + p * panel
                add(sums, j * panel, b, p * panel, count)
                if residual.size:
                    add(sums, j * panel, residual, to, count)
                copy(y, to, sums, j * panel, count)


@ahead("f4[::1], UniTuple(i8, 4), f4[::1], f4[::1], UniTuple(i8, 4), UniTuple(i8, 2), i8, UniTuple(i8, 3)")
@compiled
def _gradient(
    x: NDArray, shape: Shape, dy: NDArray, panels: NDArray, shape_out: Shape,
    kernel: tuple[int, ...], stride: int, padding: tuple[int, ...],
) -> None:  # fmt: skip
    """Add P(x)ᵀ dy to `panels`, (number of panels, kh · kw · C, width of a panel)."""
    (kh, kw), (top, left, right) = kernel, padding
    _, _, width, c = shape
    n, height_out, width_out, c_out = shape_out
    panel, line = VECTORS * BYTES // x.itemsize, (left + width + right) * c
    columns = (c_out + panel - 1) // panel * panel
    rows, row_of_dy = _zeros(kh * line, x), _zeros(width_out * columns, x)
    for r in range(n * height_out):
        _copy_rows(x, shape, r // height_out, stride * (r % height_out), top, left, rows, kh, line)
        for j in range(width_out):
            copy(row_of_dy, j * columns, dy, (r * width_out + j) * c_out, c_out)
        for p in range(columns // panel):
            for k in range(kh):
                multiply(panels, (p * kh + k) * kw * c * panel, panel, rows, k * line, 1, stride * c,
                         row_of_dy, p * panel, columns, kw * c, width_out, 1)  # fmt: skip


@ahead("f4[::1], UniTuple(i8, 4), f4[::1], f4[::1], UniTuple(i8, 4), UniTuple(i8, 2), i8, UniTuple(i8, 3), i8, i8")
@compiled
def _add_patches(
    x: NDArray, shape: Shape, panels: NDArray, y: NDArray, shape_out: Shape,
    kernel: tuple[int, ...], stride: int, padding: tuple[int, ...], start: int, stop: int,
) -> None:  # fmt: skip
    """Add Pᵀ(x M) to the images `start` to below `stop` of y, (N, H, W, C'), with M, (C, kh · kw · C'), in panels."""
    (kh, kw), (top, left, _) = kernel, padding
    _, rows, columns, c = shape
    _, height, width, c_out = shape_out
    panel, run = VECTORS * BYTES // x.itemsize, kw * c_out
    line = (kh * run + panel - 1) // panel * panel
    patches = scratch(columns * line, x)
    for r in range(start * rows, stop * rows):
        for p in range(line // panel):
            multiply(patches, p * panel, line, x, r * columns * c, c, 1,
                     panels, p * c * panel, panel, columns, c, 0)  # fmt: skip
        for p in range(kh):
            i = stride * (r % rows) - top + p
            if 0 <= i < height:
                for j in range(columns):
                    first = stride * j - left
                    cut, stop_at = max(0, -first) * c_out, min(run, (width - first) * c_out)
                    to = ((r // rows * height + i) * width + first) * c_out + cut
                    add(y, to, patches, j * line + p * run + cut, stop_at - cut)


def convolve(x: NDArray, w: NDArray, b: NDArray, stride: int, residual: NDArray | None = None) -> NDArray:
    """Return the convolution plus b and the residual; idle threads share its rows."""
    (n, height, width, _), (kh, kw, _, c_out) = x.shape, w.shape
    y = np.empty((n, -(-height // stride), -(-width // stride), c_out), x.dtype)
    panels, padding = _panels(w.reshape(-1, c_out)), _padding(x, (kh, kw), stride)
    other = np.empty(0, x.dtype) if residual is None else residual.reshape(-1)
    x_flat, y_flat = x.reshape(-1), y.reshape(-1)

    def rows_of_y(first: int, last: int) -> None:
        _convolve(x_flat, x.shape, panels, b, other, y_flat, y.shape, (kh, kw), stride, padding, first, last)

    share(rows_of_y, n * y.shape[1], y.size * kh * kw * x.shape[3])
    return y


def convolve_to_few(x: NDArray, w: NDArray, b: NDArray, residual: NDArray | None = None) -> NDArray:
    """Return the convolution at stride 1 for a kernel of odd sides, by adding patches to y: for y with few channels.

    Each pixel of x is multiplied by the kernel rotated by 180°, which gives its contributions to the outputs around it:
    output i reads pixel `i + p - top` by weight p, so pixel i adds to output `i + p - top` by weight `kh - 1 - p`.
    """
    n, height, width, c = x.shape
    y = np.empty((n, height, width, len(b)), x.dtype)
    y[...] = b
    _each_image(x, w[::-1, ::-1].transpose(2, 0, 1, 3).reshape(c, -1), y, w, 1)
    if residual is not None:
        y += residual
    return y


def convolve_backward(x: NDArray, w: NDArray, dy: NDArray, stride: int) -> tuple[NDArray, NDArray]:
    """Return (dx, dw) of `convolve`."""
    kh, kw, c, c_out = w.shape
    dx = np.zeros(x.shape, x.dtype)
    _each_image(dy, w.reshape(-1, c_out).T, dx, w, stride)
    if stride == 1 and kh % 2 and kw % 2 and c_out < c:
        # Each pixel of x met each weight once, for one of the outputs around it: xᵀ P(dy) is dw, rotated by 180°.
        turned = _weight_gradient(dy, x, (kh, kw, c_out, c), 1)
        return dx, np.ascontiguousarray(turned[::-1, ::-1].transpose(0, 1, 3, 2))
    return dx, _weight_gradient(x, dy, w.shape, stride)


def _weight_gradient(x: NDArray, dy: NDArray, shape: tuple[int, ...], stride: int) -> NDArray:
    """Return P(x)ᵀ dy in the shape of the weights."""
    kh, kw, c, c_out = shape
    width = panel_width(x.itemsize)
    panels = np.zeros((-(-c_out // width), kh * kw * c, width), x.dtype)
    padding = _padding(x, (kh, kw), stride)
    _gradient(x.reshape(-1), x.shape, dy.reshape(-1), panels.reshape(-1), dy.shape, (kh, kw), stride, padding)
    return panels.transpose(1, 0, 2).reshape(kh * kw * c, -1)[:, :c_out].reshape(shape)


def _each_image(x: NDArray, matrix: NDArray, y: NDArray, w: NDArray, stride: int) -> None:
    """Add Pᵀ(x M) to y, with M the matrix and w giving the kernel's sides; idle threads share the images."""
    panels, padding = _panels(matrix), _padding(y, kernel := w.shape[:2], stride)
    x_flat, y_flat = x.reshape(-1), y.reshape(-1)

    def images(first: int, last: int) -> None:
        _add_patches(x_flat, x.shape, panels, y_flat, y.shape, kernel, stride, padding, first, last)

    share(images, len(x), x.size * matrix.shape[1])


def _padding(x: NDArray, kernel: tuple[int, ...], stride: int) -> tuple[int, int, int]:
    """Return the numbers of rows of zeros above x, and of columns to its left and right."""
    return same_padding(x.shape[1], kernel[0], stride)[0], *same_padding(x.shape[2], kernel[1], stride)


def _panels(matrix: NDArray) -> NDArray:
    """Return a matrix, (K, columns), as flat panels, (number of panels, K, width), the last filled up with zeros."""
    terms, columns = matrix.shape
    width = panel_width(matrix.itemsize)
    panels = np.zeros((-(-columns // width), terms, width), matrix.dtype)
    for p, panel in enumerate(panels):
        part = matrix[:, p * width : (p + 1) * width]
        panel[:, : part.shape[1]] = part
    return panels.reshape(-1)
