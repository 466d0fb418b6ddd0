"""The type of arrays, and a function that works on those of every backend."""

from __future__ import annotations

from math import inf
from typing import Any, TypeAlias

from array_api_compat import device

Array: TypeAlias = Any
"""An array of whichever backend is in use."""


def clipped(xp: Any, x: Array, low: float, high: float = inf) -> Array:
    """Return x limited to [low, high]; NaN stays NaN.

    The standard's `clip` is avoided: array-api-compat implements it with masks, each of which waits for the GPU.
    """

    def bound(value: float) -> Array:
        return xp.full((), value, dtype=x.dtype, device=device(x))

    x = xp.maximum(x, bound(low))
    return x if high == inf else xp.minimum(x, bound(high))
