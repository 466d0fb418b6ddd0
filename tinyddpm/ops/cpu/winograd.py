"""3×3 convolution by Winograd's minimal filtering, F(4×4, 3×3) (Lavin, Gray 2015, arXiv 1509.09308), for NumPy.

Four outputs of a 3-tap filter g over six inputs d are Aᵀ((G g) ⊙ (Bᵀ d)): 6 products instead of 12. In two dimensions
4×4 outputs come from a 6×6 tile by 36 products instead of 144. With channels, each of the 36 is a matrix product over
all tiles:

    U = (G ⊗ G) w,  V = (B ⊗ B)ᵀ tiles(x),  M_k = V_k U_k for k = 1 … 36,  y = squares((A ⊗ A)ᵀ M)

Every step but the product is linear in x or in w, so its backward is its transpose: dM = (A ⊗ A) squares(dy),
dU_k = V_kᵀ dM_k, dw = (G ⊗ G)ᵀ dU, dV_k = dM_k U_kᵀ, and dx is the sum of the tiles (B ⊗ B) dV, added where they
overlap. In float32 the error is about 1e-5 of the largest element of the result.

Tiles, V and M are stored tile by tile, (tiles, 36, C). So a tile is six runs of 6 C numbers of the image, a transform
is one small dense product per tile, and the k-th matrix over all tiles has rows 36 C numbers apart, which the BLAS can
read without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import prod
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinyddpm.ops.cpu.blocks import NDArray, added

OUT, TILE = 4, 6
"""Numbers of outputs and inputs along one side of a tile."""

B_T = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
A_T = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)

BLOCK_ELEMENTS, BLOCK_TILES = 1 << 19, 64
"""Size of a block of images: V has about `BLOCK_ELEMENTS` numbers, to fit the cache, but at least `BLOCK_TILES`
tiles, so that each U_k that is read serves many rows."""


def tiles(height: int, width: int) -> tuple[int, int]:
    """Return the numbers of rows and columns of tiles that cover an image."""
    return -(-height // OUT), -(-width // OUT)


def transformed(w: NDArray) -> NDArray:
    """Return U = (G ⊗ G) w, (36, C_in, C_out), for w (3, 3, C_in, C_out)."""
    return (_kron(G, w.dtype) @ w.reshape(9, -1)).reshape(TILE * TILE, *w.shape[2:])


def convolve(
    x: NDArray, u: NDArray, b: NDArray, keep: bool, residual: NDArray | None = None
) -> tuple[NDArray, NDArray | None]:
    """Return (y, V): y the zero-padded convolution of x with `transformed` weights, plus b and the residual.

    Args:
        x: (N, H, W, C_in).
        u: (36, C_in, C_out), U.
        b: (C_out,).
        keep: whether to return V, which the backward needs.
        residual: array of y's shape to add to y, or None.

    Returns:
        y, (N, H, W, C_out), and V, (tiles, 36, C_in), or None without `keep`.
    """
    n, height, width, c_in = x.shape
    c_out = u.shape[2]
    y = np.empty((n, height, width, c_out), x.dtype)
    bias = np.tile(b, OUT * OUT)
    kept = np.empty((n * prod(tiles(height, width)), TILE * TILE, c_in), x.dtype) if keep else None
    for part, v, grid in _transformed_tiles(x, c_out, kept):
        outputs = _kron(A_T, x.dtype) @ _products(v, u)
        outputs = outputs.reshape(-1, OUT * OUT * c_out)
        outputs += bias
        _write_squares(y[part], outputs.reshape(*grid, OUT, OUT * c_out))
        if residual is not None:
            y[part] += residual[part]
    return y, kept


def convolve_backward(v: NDArray, w: NDArray, dy: NDArray) -> tuple[NDArray, NDArray]:
    """Return (dx, dw) of `convolve`, dw with respect to the weights before their transform, from V, w and dy."""
    n, height, width, _ = dy.shape
    rows, columns = tiles(height, width)
    c_in, c_out = w.shape[2:]
    u_t = transformed(np.ascontiguousarray(w.transpose(0, 1, 3, 2)))
    du: NDArray | None = None
    dx = np.empty((n, height, width, c_in), dy.dtype)
    for part in _blocks(n, rows * columns, max(c_in, c_out)):
        grid = (part.stop - part.start, rows, columns)
        dm = _kron(A_T, dy.dtype).T @ _squares(dy[part], grid).reshape(-1, OUT * OUT, c_out)
        v_part = v[part.start * rows * columns : part.stop * rows * columns]
        du = added(du, v_part.transpose(1, 2, 0) @ dm.transpose(1, 0, 2))
        dtiles = _kron(B_T, dy.dtype).T @ _products(dm, u_t)
        _write_squares(dx[part], _overlapped(dtiles.reshape(*grid, TILE, TILE, c_in)))
    return dx, (_kron(G, w.dtype).T @ cast(NDArray, du).reshape(TILE * TILE, -1)).reshape(w.shape)


@cache
def _kron(matrix: tuple[tuple[float, ...], ...], dtype: np.dtype[Any]) -> NDArray:
    """Return the transform along both axes of a tile: the Kronecker product of `matrix` with itself."""
    return np.kron(np.asarray(matrix), np.asarray(matrix)).astype(dtype)


def _blocks(n: int, tiles_each: int, c: int) -> list[slice]:
    """Return slices of n images, `tiles_each` tiles of c channels an image, whose V fits the cache."""
    most = max(BLOCK_ELEMENTS // (TILE * TILE * c), BLOCK_TILES)
    images = max(1, most // tiles_each)
    return [slice(start, min(n, start + images)) for start in range(0, n, images)]


def _transformed_tiles(
    x: NDArray, c_out: int, kept: NDArray | None
) -> Iterator[tuple[slice, NDArray, tuple[int, int, int]]]:
    """Yield slices of the batch, their V, (tiles, 36, C), in `kept` if given, and (images, tile rows, tile columns)."""
    n, height, width, c = x.shape
    rows, columns = tiles(height, width)
    blocks = _blocks(n, rows * columns, max(c, c_out))
    images = blocks[0].stop
    padded = np.zeros((images, OUT * rows + 2, OUT * columns + 2, c), x.dtype)
    along_n, along_h, along_w, along_c = padded.strides
    each = np.empty((images, rows, columns, TILE, TILE * c), x.dtype)
    strides = (along_n, OUT * along_h, OUT * along_w, along_h, along_c)
    overlapping = as_strided(padded, each.shape, strides, writeable=False)
    for part in blocks:
        count = part.stop - part.start
        padded[:count, 1 : height + 1, 1 : width + 1] = x[part]
        each[:count] = overlapping[:count]
        out = None if kept is None else kept[part.start * rows * columns : part.stop * rows * columns]
        v = np.matmul(_kron(B_T, x.dtype), each[:count].reshape(-1, TILE * TILE, c), out=out)
        yield part, v, (count, rows, columns)


def _products(a: NDArray, u: NDArray) -> NDArray:
    """Return M, (tiles, 36, D): for each k, the product of `a[:, k]`, (tiles, C), with `u[k]`, (C, D)."""
    m = np.empty((*a.shape[:2], u.shape[2]), a.dtype)
    np.matmul(a.transpose(1, 0, 2), u, out=m.transpose(1, 0, 2))
    return m


def _squares(images: NDArray, grid: tuple[int, int, int]) -> NDArray:
    """Return images (n, H, W, C) as 4×4 squares, (n, rows, columns, 4, 4 C), with zeros beyond the images' edges."""
    n, rows, columns = grid
    if images.shape[1:3] != (OUT * rows, OUT * columns):
        whole = np.zeros((n, OUT * rows, OUT * columns, images.shape[3]), images.dtype)
        whole[:, : images.shape[1], : images.shape[2]] = images
        images = whole
    return np.ascontiguousarray(images.reshape(n, rows, OUT, columns, -1).transpose(0, 1, 3, 2, 4))


def _write_squares(images: NDArray, squares: NDArray) -> None:
    """Write squares, (n, rows, columns, 4, 4 C), to their places in images (n, H, W, C): the inverse of `_squares`."""
    n, height, width, c = images.shape
    rows, columns = squares.shape[1:3]
    by_row = squares.transpose(0, 1, 3, 2, 4)
    if (height, width) == (OUT * rows, OUT * columns):
        images.reshape(by_row.shape)[...] = by_row
    else:
        images[...] = by_row.reshape(n, OUT * rows, OUT * columns, c)[:, :height, :width]


def _overlapped(dtiles: NDArray) -> NDArray:
    """Return the sums of overlapping tiles, (n, rows, columns, 6, 6, C), as squares, (n, rows, columns, 4, 4 C).

    The first and last rows and columns of a tile belong to the neighbouring squares, or to the padding. `dtiles` is
    overwritten.
    """
    n, rows, columns, _, _, c = dtiles.shape
    dtiles[:, :-1, :, 4] += dtiles[:, 1:, :, 0]
    dtiles[:, 1:, :, 1] += dtiles[:, :-1, :, 5]
    inner = dtiles[:, :, :, 1:5]
    inner[:, :, :-1, :, 4] += inner[:, :, 1:, :, 0]
    inner[:, :, 1:, :, 1] += inner[:, :, :-1, :, 5]
    return dtiles.reshape(n, rows, columns, TILE, TILE * c)[:, :, :, 1:5, c : 5 * c]
