"""Sharing work among idle threads if it is large enough."""

from __future__ import annotations

from collections.abc import Callable

from tinyddpm.backend.workers import spread

WORTH = 6_000_000
"""Multiply-adds from which work is shared: a core takes 0.1 ms for them, and starting threads a third of that."""

PASS = 32
"""Cost of one element of a pass over memory, in multiply-adds of a matrix product."""


def share(function: Callable[[int, int], None], n: int, multiplications: int) -> None:
    """Call `function(first, last)` on ranges that make up 0 to n.

    There is one range per idle thread if all the work takes at least WORTH multiply-adds, else a single range.
    """
    if multiplications < WORTH:
        function(0, n)
    else:
        spread(lambda part: function(part.start, part.stop), n)
