"""How work is shared by idle threads, where they are worth waking."""

from __future__ import annotations

from collections.abc import Callable

from tinyddpm.backend.workers import spread

WORTH = 6_000_000
"""Multiply-adds that a core does in 0.1 ms: threads take a third of that to begin."""

PASS = 32
"""Multiply-adds of a product that take as long as one element of a pass over memory."""


def share(function: Callable[[int, int], None], n: int, multiplications: int) -> None:
    """Do `function(first, last)` for ranges that make up `n`: one a thread where threads are idle and it pays."""
    if multiplications < WORTH:
        function(0, n)
    else:
        spread(lambda part: function(part.start, part.stop), n)
