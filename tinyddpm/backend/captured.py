"""Functions of arrays whose launches are recorded once and replayed from then on, without the host's work."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from tinyddpm.backend.array import Array

Arrays: TypeAlias = tuple[Array, ...]
Function: TypeAlias = Callable[..., Arrays]
"""Takes arrays alone and returns arrays; it asks no device for a number, and moves nothing to one."""

Record: TypeAlias = Callable[[Callable[[], Arrays]], tuple[Arrays, Callable[[], None]]]
"""Records what a function launches; returns the arrays it writes its results to, and what launches all of it again."""


class Recording(NamedTuple):
    """A recorded call: the arrays that it reads its arguments from and writes its results to, and its replay."""

    inputs: Arrays
    outputs: Arrays
    replay: Callable[[], None]


class Captured:
    """A function that is recorded at its second call with arguments of the same shapes and types.

    The first does what the function does, so that all that is made but once, compiled kernels and chosen algorithms,
    has been made by then: a recording would break on it, or keep it. Results are the caller's own.

    Args:
        record: of the backend.
        function: what is recorded.
    """

    def __init__(self, record: Record, function: Function) -> None:
        self._record, self._function = record, function
        self._recordings: dict[tuple[tuple[tuple[int, ...], str], ...], Recording | None] = {}

    def __call__(self, *inputs: Array) -> Arrays:
        """Return the function's results for these arguments."""
        key = tuple((tuple(a.shape), str(a.dtype)) for a in inputs)
        if key not in self._recordings:
            self._recordings[key] = None
            return self._function(*inputs)
        recording = self._recordings[key]
        if recording is None:
            recording = self._recordings[key] = self._recorded(inputs)
        for place, values in zip(recording.inputs, inputs, strict=True):
            place[...] = values
        recording.replay()
        return tuple(a.copy() for a in recording.outputs)

    def _recorded(self, inputs: Arrays) -> Recording:
        places = tuple(a.copy() for a in inputs)
        outputs, replay = self._record(lambda: self._function(*places))
        return Recording(places, outputs, replay)
