"""Blocks of arrays that fit the cache, and sums over pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]

PIECE = 1 << 19
"""Elements in a block, which goes through all passes of an operation before the next: 2 MiB of float32."""

ROW = 1 << 10
"""Approximate number of elements in a row of an elementwise pass: NumPy has a cost per row, so short rows are slow."""


def sample_blocks(*arrays: NDArray) -> Iterator[tuple[NDArray, ...]]:
    """Yield blocks of samples of all arrays, (N, ..., C), each as (n, pixels, C): views, for contiguous arrays."""
    n, c = arrays[0].shape[0], arrays[0].shape[-1]
    flat = [array.reshape(n, -1, c) for array in arrays]
    samples = max(1, PIECE * n // arrays[0].size)
    for start in range(0, n, samples):
        yield tuple(array[start : start + samples] for array in flat)


def pixels_per_row(pixels: int, c: int) -> int:
    """Return the number of pixels of c channels to treat as one row: a power of 2 that divides `pixels`."""
    together = 1
    while pixels % (2 * together) == 0 and together * c < ROW:
        together *= 2
    return together


def in_rows(x: NDArray, together: int) -> NDArray:
    """Return a view of x (n, pixels, C) as (n, pixels / together, together · C)."""
    n, pixels, c = x.shape
    return x.reshape(n, pixels // together, together * c)


def sum_over_rows(x: NDArray) -> NDArray:
    """Return the sums of x (..., rows, C) over rows, (..., 1, C), as a product with ones: the BLAS sums fastest."""
    total: NDArray = np.ones((1, x.shape[-2]), x.dtype) @ x
    return total


def added(total: NDArray | None, part: NDArray) -> NDArray:
    """Return `total` with `part` added in place; `part` itself if `total` is None."""
    if total is None:
        return part
    total += part
    return total
