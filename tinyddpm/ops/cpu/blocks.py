"""Pieces of arrays that stay in the cache, and sums over pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]

PIECE = 1 << 19
"""Elements that are taken through all passes of an operation before the next."""

ROW = 1 << 10
"""Elements in a row of a pointwise pass, about: NumPy starts each row anew, so rows of few channels are slow."""


def sample_blocks(*arrays: NDArray) -> Iterator[tuple[NDArray, ...]]:
    """Yield the arrays, (N, ..., C), in blocks of samples as (n, pixels, C), views where they are contiguous."""
    n, c = arrays[0].shape[0], arrays[0].shape[-1]
    flat = [array.reshape(n, -1, c) for array in arrays]
    samples = max(1, PIECE * n // arrays[0].size)
    for start in range(0, n, samples):
        yield tuple(array[start : start + samples] for array in flat)


def pixels_per_row(pixels: int, c: int) -> int:
    """Return how many pixels of c channels to take as one row: a power of 2 that divides them."""
    together = 1
    while pixels % (2 * together) == 0 and together * c < ROW:
        together *= 2
    return together


def in_rows(x: NDArray, together: int) -> NDArray:
    """Return (n, pixels, C) as (n, pixels / together, together · C), a view."""
    n, pixels, c = x.shape
    return x.reshape(n, pixels // together, together * c)


def sum_over_rows(x: NDArray) -> NDArray:
    """Return the sums of (..., rows, C) over rows, (..., 1, C), by a row of ones: the BLAS sums fastest."""
    total: NDArray = np.ones((1, x.shape[-2]), x.dtype) @ x
    return total


def added(total: NDArray | None, part: NDArray) -> NDArray:
    """Return `total` with `part` added in place; `part` itself where there is no total yet."""
    if total is None:
        return part
    total += part
    return total
