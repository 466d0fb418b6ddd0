"""What the CuPy backend says of cards, and how it compiles, seen without a card."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinyddpm.backend.cupy_backend import CupyBackend, _check_gpu
from tinyddpm.errors import BackendError


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
        errors = SimpleNamespace(CUDARuntimeError=ArithmeticError), SimpleNamespace(CUDADriverError=BufferError)
        self.cuda = SimpleNamespace(using_allocator=lambda _: nullcontext(), runtime=errors[0], driver=errors[1])

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


def test_memory_that_recording_gives_back_was_in_use() -> None:
    card = Card()
    backend = card.backend()
    function = backend.captured(lambda: ())
    for _ in range(3):
        function()
    backend._see_memory()
    assert (card.held, backend._most_held) == (0, 7)


def test_records_nothing_without_graphs() -> None:
    card = Card()
    function = card.backend(graph=False).captured(lambda: card.asked.append("function") or ())
    for _ in range(3):
        function()
    assert card.asked == ["function"] * 3


@pytest.mark.parametrize("error", [NotImplementedError, ArithmeticError, BufferError])
def test_what_cannot_be_recorded_is_one_line(error: type[Exception]) -> None:
    """The recording is ended, so that the stream is of use again."""
    card, calls = Card(), []

    def function() -> tuple[()]:
        calls.append(1)
        if len(calls) > 1:
            raise error("cuBLAS cannot")
        return ()

    captured = card.backend().captured(function)
    captured()
    with pytest.raises(BackendError) as raised:
        captured()
    assert (
        str(raised.value) == "this network's steps cannot be recorded as a CUDA graph (cuBLAS cannot): use --no-graph"
    )
    assert card.asked == ["free", "begin", "end"]
