"""The time that a run spends on training, validating, saving and drawing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tinyddpm.progress import duration

KINDS = ("training", "validating", "saving", "drawing")
"""The kinds of work that are timed. Callbacks of a validation or a drawing count towards it."""


class Spent:
    """The time that a run has spent since it was started or resumed.

    Attributes:
        seconds: the total time of each kind.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self._times = dict.fromkeys(KINDS, 0)
        self._first: dict[str, float] = {}

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Time the work inside as one occurrence of a kind, even if it fails."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            self.seconds[kind] += seconds
            self._times[kind] += 1
            self._first.setdefault(kind, seconds)

    def mean(self, kind: str) -> float:
        """Return the mean seconds of one occurrence of a kind; 0 before there was one.

        The first is a warm-up: it counts only as long as it is the only one.
        """
        seconds, times = self.seconds[kind], self._times[kind]
        return (seconds - self._first[kind]) / (times - 1) if times > 1 else seconds

    def __str__(self) -> str:
        return ", ".join(f"{kind} {duration(seconds)}" for kind, seconds in self.seconds.items())
