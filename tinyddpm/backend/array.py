"""The type of an array, and what is done to any."""

from __future__ import annotations

from math import inf
from typing import Any, TypeAlias

from array_api_compat import device

Array: TypeAlias = Any
"""An array of whichever backend is in use."""


def clipped(xp: Any, x: Array, low: float, high: float = inf) -> Array:
    """Return x brought within low and high; NaN stays NaN.

    For CuPy and NumPy, array-api-compat writes the standard's `clip` with masks, for each of which a GPU is waited for.
    """

    def bound(value: float) -> Array:
        return xp.full((), value, dtype=x.dtype, device=device(x))

    x = xp.maximum(x, bound(low))
    return x if high == inf else xp.minimum(x, bound(high))
