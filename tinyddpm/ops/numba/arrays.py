"""Arguments and results of compiled operations: contiguous arrays of one dtype."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import numpy as np

NDArray = np.ndarray[Any, Any]

Places: TypeAlias = tuple[NDArray, NDArray] | None
"""Arrays for the gradients of two parameters, which a backward writes to; None to allocate new ones."""


def plain(a: NDArray, dtype: Any = None) -> NDArray:
    """Return `a` or a copy, C-contiguous, aligned and writeable: for other arrays functions would be compiled anew."""
    if a.flags.carray and (dtype is None or a.dtype == dtype):
        return a
    return np.array(a, dtype, order="C")


@cache
def nothing(dtype: Any) -> NDArray:
    """Return the empty array (0, 0) that compiled functions receive in place of an absent array of two dimensions."""
    return np.empty((0, 0), dtype)


def stored(
    gradients: tuple[NDArray, NDArray, NDArray], into: Places, added: tuple[NDArray, ...]
) -> tuple[NDArray, NDArray, NDArray]:
    """Return dx with `added` added in place, and the parameters' gradients, copied to the arrays of `into` if given."""
    dx, *found = gradients
    for other in added:
        dx += other
    if into is None:
        return gradients
    for place, gradient in zip(into, found, strict=True):
        place[...] = gradient
    return dx, *into
