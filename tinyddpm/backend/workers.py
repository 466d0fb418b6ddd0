"""Threads that share a batch: each takes a part of it, and the parts are put together in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from itertools import pairwise
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """A pool of `threads` threads, with the BLAS held to one thread while they run.

    NumPy lets go of the interpreter inside an array operation, so threads that each work on a part of a batch run side
    by side through all of a network; the BLAS's own threads would only help inside a matrix product. Results come back
    in order, so what is made of them does not depend on which thread was faster. One thread is the caller's own.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._blas = ThreadpoolController()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return `function` of every item, in order; each thread takes a run of them, in a copy of the context."""
        items = list(items)
        if self._pool is None:
            return [function(item) for item in items]

        def results(run: slice) -> list[Result]:
            return [function(item) for item in items[run]]

        with self._blas.limit(limits=1, user_api="blas"):
            futures = [self._pool.submit(copy_context().run, results, run) for run in parts(len(items), self.threads)]
            return [result for future in futures for result in future.result()]


def parts(n: int, count: int) -> list[slice]:
    """Return slices that cut `n` samples into at most `count` parts, none empty and as equal as can be."""
    count = max(1, min(n, count))
    edges = [n * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]
