"""Threads that share a batch: each computes a part of it, and the results are joined in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from itertools import pairwise
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


_idle: ContextVar[Workers | None] = ContextVar("idle", default=None)
"""The workers whose threads are idle; None if there are none or they are busy."""


class Workers:
    """A pool of `threads` threads, with the BLAS held to one thread while they run.

    NumPy releases the interpreter's lock inside array operations, so threads that each compute a part of a batch run in
    parallel through the whole network; the BLAS's own threads would only help inside matrix products. Results come back
    in order, so sums over them do not depend on which thread was faster. A batch of a single part is computed in the
    caller's thread: the pool is then idle, and operations can `spread` their work over it.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._blas = ThreadpoolController()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return `function` of every item, in order; each thread takes adjacent items, in a copy of the context."""
        items = list(items)
        if self._pool is None:
            return [function(item) for item in items]

        def results(run: slice) -> list[Result]:
            return [function(item) for item in items[run]]

        with self._blas.limit(limits=1, user_api="blas"):
            if len(items) == 1:
                token = _idle.set(self)
                try:
                    return [function(items[0])]
                finally:
                    _idle.reset(token)
            futures = [self._pool.submit(copy_context().run, results, run) for run in parts(len(items), self.threads)]
            wait(futures)  # if one fails, too, no thread may write to arrays that the caller gives up
            return [result for future in futures for result in future.result()]

    def spread(self, function: Callable[[slice], None], cut: list[slice]) -> None:
        """Call `function` with all slices, the last in the caller's thread and the others in the pool's."""
        assert self._pool is not None
        context = copy_context()
        context.run(_idle.set, None)
        futures = [self._pool.submit(context.copy().run, function, part) for part in cut[:-1]]
        try:
            context.run(function, cut[-1])
        finally:
            wait(futures)  # no thread may write to arrays that the caller gives up
        for future in futures:
            future.result()


def spread(function: Callable[[slice], None], n: int) -> None:
    """Call `function` with slices that cover `range(n)`: with one, or with one for each thread if threads are idle.

    Its calls must be independent of each other.
    """
    workers = _idle.get()
    if workers is None or n < 2:
        function(slice(0, n))
    else:
        workers.spread(function, parts(n, workers.threads))


def parts(n: int, count: int) -> list[slice]:
    """Return slices that cut `n` samples into at most `count` parts: none is empty, sizes differ by at most 1."""
    count = max(1, min(n, count))
    edges = [n * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]
