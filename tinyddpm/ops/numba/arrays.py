"""What compiled operations take and how their work is shared: contiguous arrays of one type, by idle threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from tinyddpm.backend.workers import spread

NDArray = np.ndarray[Any, Any]

Places: TypeAlias = tuple[NDArray, NDArray] | None
"""Where a backward writes the gradients of two parameters; None where it makes room for them."""

LEAST = 1 << 18
"""Elements below which work is not worth the dispatch to a second thread: a pass over them takes 50 to 200 µs."""

PRODUCTS = 32
"""Multiply-adds of a large product that take as long as one element of a pass."""


def plain(a: NDArray, dtype: Any = None) -> NDArray:
    """Return `a` contiguous, aligned and writeable, copied if it is not: each other kind would be compiled for anew."""
    if a.flags.carray and (dtype is None or a.dtype == dtype):
        return a
    return np.array(a, dtype, order="C")


@cache
def nothing(dtype: Any) -> NDArray:
    """Return what stands for an array (N, M) that there is not: one of no rows."""
    return np.empty((0, 0), dtype)


def shared(function: Callable[[int, int], None], n: int, elements: int) -> None:
    """Do `function(first, last)` for ranges that make up `n`: one a thread where threads are idle and elements many."""
    if elements < LEAST:
        function(0, n)
    else:
        spread(lambda part: function(part.start, part.stop), n)


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
