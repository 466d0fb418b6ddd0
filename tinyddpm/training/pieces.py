"""Sums of the gradient over ranks that begin while the backward pass still runs, each piece once it is complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tinyddpm.nn import Gradients
from tinyddpm.nn.parameters import Layout, ZeroGradients

LEAST = 25 * 2**18
"""Fewest numbers in a piece, 25 MiB of float32: for smaller ones a link's latency would show (Li et al. 2020)."""


class Pieces:
    """The pieces of a flat gradient: runs of whole parameters, of at least `LEAST` numbers each but for the last.

    A piece is complete when each of its parameters has been added to as often as in the first step. That step counts;
    all its pieces are complete at its end only.

    Args:
        layout: the layout of the gradient.

    Attributes:
        slices: each piece as a slice of the flat gradient.
        of: the number of the piece that holds a parameter, by its path.
        additions: the number of additions to each parameter's gradient in a step; None before the first step.
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

    def watched(
        self, views: Gradients, join: Callable[[], None], complete: Callable[[slice], None]
    ) -> WatchedGradients:
        """Return zero gradients that call `complete` with the slice of each piece once, when the piece is complete."""
        return WatchedGradients(views, join, self, complete)


class WatchedGradients(ZeroGradients):
    """Gradients of one step that report each piece when it is complete; see `Pieces`."""

    def __init__(
        self, views: Gradients, join: Callable[[], None], pieces: Pieces, complete: Callable[[slice], None]
    ) -> None:
        super().__init__(views, join)
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
        """Return the views of these parameters, which the caller fills before it takes others; None if one is used."""
        found = super().taken(paths)
        if found is not None:
            self._written()
            self._being_written = paths
        return found

    def close(self) -> None:
        """Report the remaining pieces: the backward pass is done."""
        self._written()
        if self._pieces.additions is None:
            self._pieces.additions = self._seen
        for piece in self._left.values():
            self._complete(piece)
        self._left = {}

    def _written(self) -> None:
        """Count the views that were handed out last: they are filled by now."""
        for path in self._being_written:
            self._seen[path] += 1
            number = self._pieces.of[path]
            self._missing[number] -= 1
            if self._pieces.additions is not None and not self._missing[number]:
                self._complete(self._left.pop(number))
        self._being_written = ()
