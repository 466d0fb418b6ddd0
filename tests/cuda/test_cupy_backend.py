"""What the CuPy backend says of cards, and how it compiles, seen without a card."""

from __future__ import annotations

import gc
import re
import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers import cupy_stand_in
from tinyddpm.backend import load_backend
from tinyddpm.backend.cupy_backend import CupyBackend, _check_gpu
from tinyddpm.errors import BackendError, OutOfMemoryError
from tinyddpm.ops import load_operations


def module_with_card(major: int, minor: int) -> Any:
    """Return a module cupy with one card of this compute capability."""
    module: Any = ModuleType("cupy")
    runtime = SimpleNamespace(
        CUDARuntimeError=RuntimeError,
        driverGetVersion=lambda: 13000,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda index: {"name": b"Some card", "major": major, "minor": minor},
    )
    module.cuda = SimpleNamespace(runtime=runtime)
    return module


def test_card_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", module_with_card(7, 5))
    with pytest.raises(BackendError) as raised:
        CupyBackend()
    assert str(raised.value) == (
        "GPU 0 (Some card) is too old: its compute capability is 7.5, and 8.0 or later is needed; use --backend numpy"
    )


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 0)])
def test_cards_that_are_supported(capability: tuple[int, int]) -> None:
    _check_gpu(module_with_card(*capability), 0)


def test_compiles_once() -> None:
    """One module for each source and options, however often it is asked for."""
    made = []

    def raw_module(code: str, options: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        made.append((code, options))
        return code, options

    backend = CupyBackend.__new__(CupyBackend)
    backend._cupy, backend._modules = SimpleNamespace(RawModule=raw_module), {}
    for _ in range(2):
        assert backend.compile("a", ("x",)) == ("a", ("x",))
        assert backend.compile("a", ()) == ("a", ())
    assert made == [("a", ("x",)), ("a", ())]


class Card:
    """As much of the module cupy as recording asks for, and what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        say = self.asked.append
        graph = SimpleNamespace(launch=lambda stream: say("launch"))
        self.stream = SimpleNamespace(begin_capture=lambda: say("begin"), end_capture=lambda: say("end") or graph)
        self.held = 5
        pool = SimpleNamespace(
            malloc=None, free_all_blocks=lambda: say("free") or setattr(self, "held", 0), total_bytes=lambda: self.held
        )
        self.get_default_memory_pool = lambda: pool
        self.cuda = SimpleNamespace(using_allocator=lambda _: nullcontext())

    def backend(self, graph: bool = True) -> CupyBackend:
        backend = CupyBackend.__new__(CupyBackend)
        backend._cupy, backend._stream, backend._graph = self, self.stream, graph
        backend._graph_memory = SimpleNamespace(malloc=None, total_bytes=lambda: 2)
        backend._most_held = 0
        return backend


def test_records_at_the_second_call_and_replays() -> None:
    card = Card()
    function = card.backend().captured(lambda x: card.asked.append("function") or (x,))
    for _ in range(4):
        function(np.ones(2))
    assert card.asked == ["function", "free", "begin", "function", "end", "launch", "launch", "launch"]


@pytest.mark.parametrize("collects", [True, False])
def test_no_garbage_is_collected_while_recording(collects: bool) -> None:
    """It may be a backend with its memory, which CUDA must not free then. Afterwards all is as before, errors too."""
    seen: list[bool] = []

    def function(error: type[Exception] | None = None) -> tuple[()]:
        seen.append(gc.isenabled())
        if error:
            raise error
        return ()

    backend = Card().backend()
    if not collects:
        gc.disable()
    try:
        backend._record(function)
        seen.append(gc.isenabled())
        with pytest.raises(MemoryError):
            backend._record(partial(function, MemoryError))
        seen.append(gc.isenabled())
    finally:
        gc.enable()
    assert seen == [False, collects, False, collects]


def test_memory_that_recording_gives_back_was_in_use() -> None:
    card = Card()
    backend = card.backend()
    function = backend.captured(lambda: ())
    for _ in range(3):
        function()
    backend._see_memory()
    assert (card.held, backend._most_held) == (0, 7)


def test_a_branch_follows_what_was_launched_and_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three branches each begins after all that is launched before it, and is waited for where the next begins, or
    it is joined, or the recording ends; its array is kept until then."""
    cupy_stand_in.install(monkeypatch)
    backend = load_backend("cupy")
    assert isinstance(backend, CupyBackend)
    main, side = backend._stream, backend._side
    read: list[weakref.ref[Any]] = []

    def seen(by: Any, of: Any) -> int:
        """How many launches a stream waits for of another."""
        return int(by.seen[of.ptr][-1]) if of.ptr in by.seen else 0

    def branch() -> None:
        array = backend.xp.zeros(2)
        read.append(weakref.ref(array))
        with backend.beside(array):
            backend.xp.ones(2)

    def function() -> tuple[Any, ...]:
        branch()
        assert (seen(side, main), seen(main, side)) == (1, 0)
        branch()
        assert (seen(side, main), seen(main, side)) == (3, 3)
        assert [array() is None for array in read] == [True, False]
        backend.join()
        assert seen(main, side) == 4
        assert read[-1]() is None
        branch()
        return (backend.xp.zeros(2),)

    with backend.scope():
        with backend.beside(), pytest.raises(KeyError):  # nothing is recorded, so nothing is beside it
            main.seen[side.ptr]
        backend._record(function)
    assert seen(main, side) == 7
    assert read[-1]() is None


def test_records_nothing_without_graphs() -> None:
    card = Card()
    function = card.backend(graph=False).captured(lambda: card.asked.append("function") or ())
    for _ in range(3):
        function()
    assert card.asked == ["function"] * 3


def ask_for_a_number(backend: CupyBackend, x: Any) -> tuple[Any]:
    return (x * float(x[0, 0]),)


def copy(backend: CupyBackend, x: Any) -> tuple[Any]:
    return (x + backend.asarray(np.ones((2, 2))),)


def multiply(backend: CupyBackend, x: Any) -> tuple[Any]:
    return (x @ x,)


def wait(backend: CupyBackend, x: Any) -> tuple[Any]:
    backend.synchronize()
    return (x,)


def wait_unseen(backend: CupyBackend, x: Any) -> tuple[Any]:
    """The error is met again where the recording ends: nobody knows then who did it."""
    with suppress(RuntimeError):
        backend.synchronize()
    return (x,)


def take_the_reference(backend: CupyBackend, x: Any) -> tuple[Any]:
    """For float64 there are no kernels: the product is cuBLAS's."""
    y, _ = load_operations(backend).linear(x, x, x[0])
    return (y,)


@pytest.mark.parametrize(
    ("function", "where", "reason"),
    [
        (ask_for_a_number, r"ask_for_a_number does \(.*test_cupy_backend.py:\d+\)", "a number asked for while .*"),
        (copy, r"copy does \(.*test_cupy_backend.py:\d+\)", "a copy from the host while .*"),
        (multiply, r"multiply does \(.*test_cupy_backend.py:\d+\)", "a product by cuBLAS while .*"),
        (wait, r"wait does \(.*test_cupy_backend.py:\d+\)", "cudaErrorStreamCaptureUnsupported: .*"),
        (wait_unseen, "this network does", "cudaErrorStreamCaptureInvalidated: .*"),
        (take_the_reference, r"linear does \(.*linear.py:\d+\)", "a product by cuBLAS while .*"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_recorded_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], where: str, reason: str
) -> None:
    """By the innermost function of a plugin or of ours, not by what CuPy does for it; the stream is of use again."""
    cupy_stand_in.install(monkeypatch)
    backend = CupyBackend()
    with backend.scope():
        captured, x = backend.captured(partial(function, backend)), backend.asarray(np.ones((2, 2)))
        captured(x)
        for _ in range(2):
            with pytest.raises(BackendError) as raised:
                captured(x)
            line = rf"what {where} cannot be recorded as a CUDA graph \({reason}\): use --no-graph"
            assert re.fullmatch(line, str(raised.value))


@pytest.mark.parametrize(
    ("fault", "error", "line"),
    [
        ("cudaErrorMemoryAllocation: out of memory", OutOfMemoryError, "out of memory on .*smaller --batch-size"),
        ("cudaErrorIllegalAddress: some", BackendError, r".* cannot be recorded as a CUDA graph \(.*Address: some\).*"),
    ],
)
def test_recordings_give_back_no_memory(
    monkeypatch: pytest.MonkeyPatch, fault: str, error: type[Exception], line: str
) -> None:
    """What is free in the graphs' pool is used by launches recorded before, so nothing is freed where memory ends."""
    cupy_stand_in.install(monkeypatch)
    backend = CupyBackend()
    captured = backend.captured(lambda: (backend.xp.empty(2, dtype=np.float32),))
    with backend.scope():
        captured()
    monkeypatch.setattr(cupy_stand_in.CARD, "fault", fault)
    with pytest.raises(error, match=line), backend.scope():
        captured()


@pytest.mark.parametrize("wait", ["to_numpy", "synchronize"])
def test_uploaded_values_are_kept_until_they_are_there(monkeypatch: pytest.MonkeyPatch, wait: str) -> None:
    """The copy goes on when the call has returned, and the caller may drop the values."""
    cupy_stand_in.install(monkeypatch)
    backend = CupyBackend()
    with backend.scope():
        array, values = backend.asarray(np.zeros(3)), np.ones(3)
        held = weakref.ref(values)
        backend.upload(array, values)
        del values
        gc.collect()
        assert held() is not None
        getattr(backend, wait)(*[array] * (wait == "to_numpy"))
        gc.collect()
        assert held() is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_other_errors_end_the_recording_and_are_raised(error: type[BaseException]) -> None:
    card, calls = Card(), []

    def function() -> tuple[()]:
        calls.append(1)
        if len(calls) > 1:
            raise error
        return ()

    captured = card.backend().captured(function)
    captured()
    with pytest.raises(error):
        captured()
    assert card.asked == ["free", "begin", "end"]
