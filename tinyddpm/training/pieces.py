"""Sums of the gradient that begin while the backward pass still runs: each piece of it is sent when all is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tinyddpm.nn import Gradients
from tinyddpm.nn.parameters import Layout, ZeroGradients

LEAST = 25 * 2**18
"""Numbers that a piece has at least, 25 MiB of float32: of fewer, a link's latency would be felt (Li et al. 2020)."""


class Pieces:
    """The pieces of a flat gradient, and how often each parameter's gradient is added to in a step.

    The first step tells how often. In it, all pieces are complete at its end.

    Args:
        layout: of the gradient. A piece holds parameters that follow each other, whole.
    """

    def __init__(self, layout: Layout) -> None:
        self.slices: list[slice] = []
        self.of: dict[str, int] = {}
        self.additions: Counter[str] | None = None
        start = 0
        for path, (_, end) in layout.spans.items():
            self.of[path] = len(self.slices)
            if end - start >= LEAST:
                self.slices.append(slice(start, end))
                start = end
        if start < layout.size:
            self.slices.append(slice(start, layout.size))

    def watched(self, views: Gradients, complete: Callable[[slice], None]) -> WatchedGradients:
        """Return gradients that are zero as yet, which call `complete` with each piece once, when all is in it."""
        return WatchedGradients(views, self, complete)


class WatchedGradients(ZeroGradients):
    """Gradients of one step that tell when a piece of them is complete; see `Pieces`."""

    def __init__(self, views: Gradients, pieces: Pieces, complete: Callable[[slice], None]) -> None:
        super().__init__(views)
        self._pieces, self._complete = pieces, complete
        self._seen = Counter[str]()
        self._being_written: tuple[str, ...] = ()
        self._missing: Counter[int] = Counter()
        for path, times in (pieces.additions or {}).items():
            self._missing[pieces.of[path]] += times
        self._left = dict(enumerate(pieces.slices))

    def __setitem__(self, path: str, view: object) -> None:
        super().__setitem__(path, view)
        self._written()
        self._being_written = (path,)

    def taken(self, paths: tuple[str, ...]) -> tuple[object, ...] | None:
        """Return the places of these parameters, which the caller writes to before it asks for others."""
        found = super().taken(paths)
        if found is not None:
            self._written()
            self._being_written = paths
        return found

    def close(self) -> None:
        """Tell of the pieces that are left: nothing more is added."""
        self._written()
        if self._pieces.additions is None:
            self._pieces.additions = self._seen
        for piece in self._left.values():
            self._complete(piece)
        self._left = {}

    def _written(self) -> None:
        """Count what was being written when it was last asked for: by now it is."""
        for path in self._being_written:
            self._seen[path] += 1
            number = self._pieces.of[path]
            self._missing[number] -= 1
            if self._pieces.additions is not None and not self._missing[number]:
                self._complete(self._left.pop(number))
        self._being_written = ()
