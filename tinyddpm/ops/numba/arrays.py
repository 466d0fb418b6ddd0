"""What compiled operations take: contiguous arrays of one type."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import numpy as np

NDArray = np.ndarray[Any, Any]

Places: TypeAlias = tuple[NDArray, NDArray] | None
"""Where a backward writes the gradients of two parameters; None where it makes room for them."""


def plain(a: NDArray, dtype: Any = None) -> NDArray:
    """Return `a` contiguous, aligned and writeable, copied if it is not: each other kind would be compiled for anew."""
    if a.flags.carray and (dtype is None or a.dtype == dtype):
        return a
    return np.array(a, dtype, order="C")


@cache
def nothing(dtype: Any) -> NDArray:
    """Return what stands for an array (N, M) that there is not: one of no rows."""
    return np.empty((0, 0), dtype)


def stored(
    gradients: tuple[NDArray, NDArray, NDArray], into: Places, added: tuple[NDArray, ...]
) -> tuple[NDArray, NDArray, NDArray]:
    """Return dx, which the caller owns, with `added` added to it, and the parameters' gradients, in their places."""
    dx, *found = gradients
    for other in added:
        dx += other
    if into is None:
        return gradients
    for place, gradient in zip(into, found, strict=True):
        place[...] = gradient
    return dx, *into
