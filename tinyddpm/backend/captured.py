"""Functions of arrays whose launches are recorded once, then replayed without the host's work."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from tinyddpm.backend.array import Array

Arrays: TypeAlias = tuple[Array, ...]
Function: TypeAlias = Callable[..., Arrays]
"""A function from arrays to arrays that moves no data between host and device."""

Record: TypeAlias = Callable[[Callable[[], Arrays]], tuple[Arrays, Callable[[], None]]]
"""A function that records the launches of a given function; it returns the arrays of its results, and the replay."""


class Recording(NamedTuple):
    """A recorded call: the arrays of its arguments, those of its results, and the function that replays it."""

    inputs: Arrays
    outputs: Arrays
    replay: Callable[[], None]


class Captured:
    """A function that is recorded at its second call with arguments of the same shapes and types.

    The first call runs the function itself, which compiles kernels and chooses algorithms: work that happens only once
    and would break the recording or become a part of it. Results are copies that belong to the caller.

    Args:
        record: the backend's function that records.
        function: the function to record.
    """

    def __init__(self, record: Record, function: Function) -> None:
        self._record, self._function = record, function
        self._recordings: dict[tuple[tuple[tuple[int, ...], str], ...], Recording | None] = {}

    def __call__(self, *inputs: Array) -> Arrays:
        """Return the function's results for these arguments."""
        key = tuple((tuple(a.shape), str(a.dtype)) for a in inputs)
        if key not in self._recordings:
            outputs = self._function(*inputs)
            self._recordings[key] = None
            return outputs
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
