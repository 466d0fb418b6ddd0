"""How functions are compiled, and the exponential function that compiled loops can be vectorised over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])

FASTMATH = {"nsz", "arcp", "contract", "afn"}
"""What arithmetic may assume. Not that there are no NaN and no infinities: they must come through."""


def compiled(function: F) -> F:
    """Return `function` compiled for the types it is called with, once a machine: the code is kept on disk.

    It lets go of the interpreter while it runs, and divides as NumPy does: with a branch for zero, which Python has,
    no loop would be vectorised.
    """
    result: F = numba.njit(error_model="numpy", nogil=True, cache=True, fastmath=FASTMATH)(function)
    return result
