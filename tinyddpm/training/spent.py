"""Where the time of a run goes: to training, and to what is done between steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tinyddpm.progress import duration

KINDS = ("training", "validating", "saving", "drawing")
"""What a run does that takes time; what callbacks do at a validation or a drawing is part of it."""


class Spent:
    """The time that a run has spent since it was started or resumed.

    Attributes:
        seconds: the sum of each kind, by its name.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self._times = dict.fromkeys(KINDS, 0)
        self._first: dict[str, float] = {}

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Count what is done inside as one of a kind, also where it fails."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            self.seconds[kind] += seconds
            self._times[kind] += 1
            self._first.setdefault(kind, seconds)

    def mean(self, kind: str) -> float:
        """Return how many seconds one of a kind takes; 0 before there was one.

        The first warms up, and is left out once there are others.
        """
        seconds, times = self.seconds[kind], self._times[kind]
        return (seconds - self._first[kind]) / (times - 1) if times > 1 else seconds

    def __str__(self) -> str:
        return ", ".join(f"{kind} {duration(seconds)}" for kind, seconds in self.seconds.items())
