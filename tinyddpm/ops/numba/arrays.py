"""What compiled operations take and how their work is shared: contiguous arrays of one type, by idle threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm.backend.workers import spread

NDArray = np.ndarray[Any, Any]

LEAST = 1 << 16
"""Elements below which work is not worth the dispatch to a second thread."""


def plain(a: NDArray, dtype: Any = None) -> NDArray:
    """Return `a` contiguous and writeable, copied only if it is not: each other kind would be compiled for anew."""
    return np.require(a, dtype, ["C", "W"])


def shared(function: Callable[[int, int], None], n: int, elements: int) -> None:
    """Do `function(first, last)` for ranges that make up `n`: one a thread where threads are idle and elements many."""
    if elements < LEAST:
        function(0, n)
    else:
        spread(lambda part: function(part.start, part.stop), n)
