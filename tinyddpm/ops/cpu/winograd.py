"""3×3 convolution by Winograd's minimal filtering, F(4×4, 3×3) (Lavin, Gray 2015, arXiv 1509.09308), for NumPy.

Four outputs of a 3-tap filter g over six inputs d are Aᵀ((G g) ⊙ (Bᵀ d)): 6 products where there were 12. In two
dimensions 4×4 outputs come from a 6×6 tile by 36 products instead of 144, and with channels each of the 36 is a matrix
product over all tiles:

    U = (G ⊗ G) w,  V = (B ⊗ B)ᵀ tiles(x),  M_k = V_k U_k for k = 1 … 36,  y = untiled((A ⊗ A)ᵀ M)

Every step but the product is linear in x or in w, so its backward is its transpose: dM = (A ⊗ A) tiled(dy),
dU_k = V_kᵀ dM_k, dw = (G ⊗ G)ᵀ dU, dV_k = dM_k U_kᵀ, and dx adds up the tiles (B ⊗ B) dV where they overlap. In float32
the result is off by about 1e-5 of its largest element.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

NDArray = np.ndarray[Any, Any]

OUT, TILE = 4, 6
"""Outputs and inputs along one side of a tile."""

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

BLOCK_ELEMENTS, BLOCK_TILES = 1 << 17, 64
"""A block of images has about so many elements in its tiles, to stay in the cache, but not fewer tiles than that."""


def pays(x: NDArray, c_out: int) -> bool:
    """Whether this is the fastest way to convolve x, (N, H, W, C_in), with 3×3 weights.

    In multiplications, the input's transform costs as much as a product with 36 output channels and the output's as one
    with 16 input channels; the weights' is shared by all tiles; and where tiles stick out of the image, that part of
    them is thrown away.
    """
    n, height, width, c_in = x.shape
    rows, columns = _tiles(height, width)
    filled = height * width / (OUT * OUT * rows * columns)
    return bool(min(c_in, c_out) >= 32 and filled > 0.6 and n * rows * columns >= max(16, c_in / 8, c_out / 8))


def convolve(x: NDArray, w: NDArray) -> NDArray:
    """Return the zero-padded convolution, (N, H, W, C_out), of x (N, H, W, C_in) with w (3, 3, C_in, C_out)."""
    _, height, width, _ = x.shape
    u = _transformed(w)
    y = np.empty((*x.shape[:3], w.shape[3]), x.dtype)
    for part, v, shape in _transformed_tiles(x):
        outputs = _kron(A_T, x.dtype) @ np.matmul(v, u).reshape(TILE * TILE, -1)
        y[part] = _untiled(outputs, shape)[:, :height, :width]
    return y


def convolve_backward(x: NDArray, w: NDArray, dy: NDArray) -> tuple[NDArray, NDArray]:
    """Return (dx, dw) of `convolve`."""
    _, height, width, c_in = x.shape
    u_t = np.ascontiguousarray(_transformed(w).transpose(0, 2, 1))
    du = np.zeros((TILE * TILE, *w.shape[2:]), w.dtype)
    dx = np.empty(x.shape, x.dtype)
    for part, v, shape in _transformed_tiles(x):
        dm = (_kron(A_T, x.dtype).T @ _tiled(dy[part], shape)).reshape(TILE * TILE, -1, dy.shape[-1])
        du += np.matmul(v.transpose(0, 2, 1), dm)
        dtiles = _kron(B_T, x.dtype).T @ np.matmul(dm, u_t).reshape(TILE * TILE, -1)
        dx[part] = _overlapped(dtiles, (*shape, c_in))[:, :height, :width]
    return dx, (_kron(G, w.dtype).T @ du.reshape(TILE * TILE, -1)).reshape(w.shape)


@cache
def _kron(matrix: tuple[tuple[float, ...], ...], dtype: np.dtype[Any]) -> NDArray:
    """Return the transform of both directions of a tile: the Kronecker product of `matrix` with itself."""
    return np.kron(np.asarray(matrix), np.asarray(matrix)).astype(dtype)


def _tiles(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of tiles that cover an image."""
    return -(-height // OUT), -(-width // OUT)


def _transformed(w: NDArray) -> NDArray:
    """Return U, (36, C_in, C_out)."""
    return (_kron(G, w.dtype) @ w.reshape(9, -1)).reshape(TILE * TILE, *w.shape[2:])


def _transformed_tiles(x: NDArray) -> Iterator[tuple[slice, NDArray, tuple[int, int, int]]]:
    """Yield slices of the batch with their V, (36, tiles, C), and (images, rows, columns) of the tiles."""
    n, height, width, c = x.shape
    rows, columns = _tiles(height, width)
    per_image = TILE * TILE * rows * columns * c
    images = min(n, max(1, BLOCK_ELEMENTS // per_image, -(-BLOCK_TILES // (rows * columns))))
    padded = np.zeros((images, OUT * rows + 2, OUT * columns + 2, c), x.dtype)
    along_n, along_h, along_w, along_c = padded.strides
    strides = (along_h, along_w, along_n, OUT * along_h, OUT * along_w, along_c)
    for start in range(0, n, images):
        count = min(images, n - start)
        padded[:count, 1 : height + 1, 1 : width + 1] = x[start : start + count]
        shape = (TILE, TILE, count, rows, columns, c)
        tiles = np.ascontiguousarray(as_strided(padded, shape, strides, writeable=False))
        v = _kron(B_T, x.dtype) @ tiles.reshape(TILE * TILE, -1)
        yield slice(start, start + count), v.reshape(TILE * TILE, -1, c), (count, rows, columns)


def _untiled(outputs: NDArray, shape: tuple[int, int, int]) -> NDArray:
    """Return (16, tiles · C) as images, (n, 4 rows, 4 columns, C)."""
    n, rows, columns = shape
    by_tile = outputs.reshape(OUT, OUT, n, rows, columns, -1).transpose(2, 3, 0, 4, 1, 5)
    return by_tile.reshape(n, OUT * rows, OUT * columns, -1)


def _tiled(dy: NDArray, shape: tuple[int, int, int]) -> NDArray:
    """Return images (n, H, W, C) as (16, tiles · C), zeros where the tiles stick out: the transpose of `_untiled`."""
    n, rows, columns = shape
    whole = np.zeros((n, OUT * rows, OUT * columns, dy.shape[-1]), dy.dtype)
    whole[:, : dy.shape[1], : dy.shape[2]] = dy
    by_place = whole.reshape(n, rows, OUT, columns, OUT, -1).transpose(2, 4, 0, 1, 3, 5)
    return by_place.reshape(OUT * OUT, -1)


def _overlapped(dtiles: NDArray, shape: tuple[int, int, int, int]) -> NDArray:
    """Return the images, (n, 4 rows + 1, 4 columns + 1, C), that 6×6 tiles 4 apart add up to, without the padding."""
    n, rows, columns, c = shape
    each = dtiles.reshape(TILE, TILE, n, rows, columns, c)
    total = np.zeros((n, OUT * rows + 2, OUT * columns + 2, c), dtiles.dtype)
    for i in range(TILE):
        for j in range(TILE):
            total[:, i : i + OUT * rows - 3 : OUT, j : j + OUT * columns - 3 : OUT] += each[i, j]
    return total[:, 1:, 1:]
