"""When idle threads are worth waking."""

from __future__ import annotations

from collections.abc import Callable

from tinyddpm.backend.workers import spread

WORTH = 6_000_000
"""Multiply-adds that a core does in 0.1 ms: threads take a third of that to begin."""


def share(function: Callable[[slice], None], n: int, multiplications: int) -> None:
    """Do `function` for slices that make up `n`: for one, or for one a thread where threads are idle and it pays."""
    if multiplications < WORTH:
        function(slice(0, n))
    else:
        spread(function, n)
