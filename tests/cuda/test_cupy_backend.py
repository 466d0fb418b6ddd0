"""What the CuPy backend says of cards, and how it compiles, seen without a card."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

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
