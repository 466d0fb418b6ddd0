"""A stand-in for CuPy on a machine without a GPU: arrays on the tape, kernels on the CPU, one card.

The card has a clock, which launches advance. Calls of graphs and events are recorded in `ASKED`.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from helpers.cuda_shim import _Module, _Namespace
from helpers.cuda_tape import TAPE, TapedArray, _plain, _TapedModule, _TapedNamespace
from tinyddpm.backend import cupy_backend

MEMORY = 80 * 2**30

ASKED: list[str] = []
"""Calls of graphs and events, in order."""

HOST = 0.05
"""Milliseconds of Python's time for a launch."""


class Card:
    """The card, as kernels see it, with its clock: a kernel of ours takes a millisecond.

    Attributes:
        launched: names of our launched kernels.
        replaying: whether a graph is being replayed.
        fault: CUDA's error where memory is allocated, if any.
    """

    shared_memory = 232448

    def __init__(self) -> None:
        self.launched: list[str] = []
        self.replaying = False
        self.fault = ""
        self._others = 0.0

    def took(self, milliseconds: float) -> None:
        """Advance the clock by a launch: by its own time, or by Python's if that is longer and no graph is replayed."""
        self._others += milliseconds if self.replaying else max(milliseconds, HOST)

    def now(self) -> float:
        """Return the milliseconds of all launches so far."""
        return self._others + len(self.launched)


CARD = Card()


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""


class Device:
    """The card."""

    def __init__(self, index: Any = 0) -> None:
        self.id = int(index)
        self.attributes = {"MaxSharedMemoryPerBlockOptin": CARD.shared_memory}

    def __int__(self) -> int:
        return self.id

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def synchronize(self) -> None:
        wait()


def wait() -> None:
    """Refuse to wait for work that is only recorded; the recording is broken from then on."""
    if TAPE.active:
        Stream.broken = True
        raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")


class Stream:
    """A stream, on which a graph can be recorded, whose work must use the memory of a pool of its own.

    Attributes:
        current: the streams that were entered; the first is the default one, which cannot record.
        broken: whether the recording has failed.
    """

    current: ClassVar[list[Stream]] = []
    broken: ClassVar[bool] = False

    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr, self.non_blocking, self.sums = id(self), non_blocking, 0
        self.seen: dict[int, tuple[int, int]] = {}

    def wait_event(self, event: Event) -> None:
        """Have later work of this stream wait for the work before the event on its stream."""
        of, *then = event.of
        self.seen[of] = then

    def __enter__(self) -> None:
        self.current.append(self)

    def __exit__(self, *_: object) -> None:
        self.current.pop()

    def synchronize(self) -> None:
        wait()

    def begin_capture(self) -> None:
        if self is self.current[0]:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        assert self.current[-1] is self
        assert not TAPE.active
        assert Pool.current, "a graph's memory is used by others"
        TAPE.active, TAPE.launches, Stream.broken = True, [], False

    def end_capture(self) -> Graph:
        launches, TAPE.active = TAPE.launches, False
        if self.broken:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: failed due to a previous error during capture")
        ASKED.append(f"record {len(launches)} launches")
        return Graph(launches, Pool.current[-1])

    def is_capturing(self) -> bool:
        return TAPE.active


class Graph:
    """The recorded launches. A graph does not keep the pool whose memory they use."""

    def __init__(self, launches: list[Callable[[], Any]], pool: Pool) -> None:
        self._launches, self._pool = launches, weakref.ref(pool)

    def launch(self, stream: Stream) -> None:
        assert self._pool() is not None, "the graph's memory is gone"
        assert not TAPE.active
        ASKED.append(f"launch {len(self._launches)}")
        CARD.replaying = True
        for launch in self._launches:
            launch()
        CARD.replaying = False


class Event:
    """A point in a stream's work, with the time of the card's clock."""

    of: tuple[int, int, int]
    """The stream, the number of its sums, and the number of recorded launches, at the event."""

    def __init__(self, disable_timing: bool = False) -> None:
        self.timed = not disable_timing

    def record(self, stream: Stream | None = None) -> None:
        if not self.timed:
            assert stream is not None
            self.of = stream.ptr, stream.sums, len(TAPE.launches)
            return
        assert not TAPE.active
        ASKED.append("record event")
        self.at, self.reached = CARD.now(), False

    def synchronize(self) -> None:
        wait()
        ASKED.append("wait for event")
        self.reached = True


def get_elapsed_time(start: Event, end: Event) -> float:
    assert end.reached
    return end.at - start.at


class Pool:
    """A pool of memory, which holds 3 MiB.

    Attributes:
        current: the pools in use, the innermost last, without the default one.
    """

    current: ClassVar[list[Pool]] = []

    def __init__(self, allocator: Callable[[int], Any] | None = None) -> None:
        self.arrays: list[np.ndarray] = []
        self._allocator = allocator or memory

    def malloc(self, size: int) -> None:
        """Allocate memory; if there is none, give back what is free and try again, as CuPy's pool does."""
        try:
            self._allocator(size)
        except CUDARuntimeError as error:
            if "cudaErrorMemoryAllocation" not in str(error):
                raise
            self.free_all_blocks()
            self._allocator(size)

    def free_all_blocks(self) -> None:
        assert not TAPE.active

    def total_bytes(self) -> int:
        return 3 * 2**20


def memory(size: int) -> None:
    """Allocate memory of the card."""
    if CARD.fault:
        raise CUDARuntimeError(CARD.fault)


@contextmanager
def using_allocator(allocator: Any) -> Iterator[None]:
    """Allocate arrays in the pool of this allocator, a method of it."""
    Pool.current.append(allocator.__self__)
    try:
        yield
    finally:
        Pool.current.pop()


class Namespace(_TapedNamespace):
    """A stand-in for array_api_compat.cupy: arrays are made on the current card."""

    def __init__(self) -> None:
        super().__init__(_Namespace())

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if isinstance(value, type) or not callable(value):
            return value

        def call(*arguments: Any, device: Any = None, **options: Any) -> Any:
            made = value(*arguments, **options)
            if name == "empty" and Pool.current:  # as memory is a pool's after its array is gone
                Pool.current[-1].malloc(made.nbytes)
                Pool.current[-1].arrays.append(made)
            return made

        return call


def install(monkeypatch: pytest.MonkeyPatch, cudnn: Any = None) -> None:
    """Make `import cupy` and `import array_api_compat.cupy` find the stand-ins, and `import cudnn` the given module."""
    cupy: Any = ModuleType("cupy")
    pool = Pool()
    cupy.__version__ = "14.0"
    cupy.get_default_memory_pool = lambda: pool
    cupy.asnumpy = lambda array: TAPE.refuse("a copy to the host") or np.array(_plain(array))
    cupy.RawModule = lambda code, options: _TapedModule(_Module(CARD, code, options))
    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda index: {"name": b"Some card", "major": 9, "minor": 0},
        memGetInfo=lambda: (MEMORY, MEMORY),
    )
    cupy.cuda = SimpleNamespace(
        Device=Device, Stream=Stream, Event=Event, MemoryPool=Pool, runtime=runtime, using_allocator=using_allocator,
        get_elapsed_time=get_elapsed_time, get_current_stream=lambda: Stream.current[-1],
        Memory=memory, MemoryPointer=lambda memory, offset: memory,
    )  # fmt: skip
    cupyx: Any = ModuleType("cupyx")
    cupyx.empty_pinned = np.empty
    namespace: Any = ModuleType("array_api_compat.cupy")
    found = Namespace()
    namespace.__getattr__ = lambda name: getattr(found, name)
    for name, module in {"cupy": cupy, "cupyx": cupyx, "array_api_compat.cupy": namespace, "cudnn": cudnn}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("array_api_compat.cupy", namespace, raising=False)
    monkeypatch.setattr(Stream, "current", [Stream()])
    monkeypatch.setattr(TapedArray, "data", property(lambda a: SimpleNamespace(ptr=a.ctypes.data)), raising=False)
    monkeypatch.setattr(cupy_backend, "ARRAY_LAYER", (*cupy_backend.ARRAY_LAYER, "helpers"))
    ASKED.clear()
