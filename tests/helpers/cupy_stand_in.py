"""A module that stands in for CuPy on a machine without a GPU: arrays on the tape, kernels on the CPU, one card."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from helpers.cuda_shim import _Module, _Namespace
from helpers.cuda_tape import TAPE, _plain, _TapedModule, _TapedNamespace

CARD = SimpleNamespace(shared_memory=232448, launched=list[str]())
MEMORY = 80 * 2**30


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
        assert not TAPE.active


class Stream:
    """A stream, on which a graph is recorded."""

    current: ClassVar[list[Stream | None]] = [None]

    def __enter__(self) -> None:
        self.current.append(self)

    def __exit__(self, *_: object) -> None:
        self.current.pop()

    def begin_capture(self) -> None:
        assert self.current[-1] is self
        assert not TAPE.active
        TAPE.active, TAPE.launches = True, []

    def end_capture(self) -> SimpleNamespace:
        launches, TAPE.active = TAPE.launches, False

        def launch(stream: Stream) -> None:
            assert stream is self
            for each in launches:
                each()

        return SimpleNamespace(launch=launch)

    def is_capturing(self) -> bool:
        return TAPE.active


class Pool:
    """A pool of memory, of which 3 MiB are held."""

    def malloc(self, size: int) -> None: ...

    def free_all_blocks(self) -> None:
        assert not TAPE.active

    def total_bytes(self) -> int:
        return 3 * 2**20


class Namespace(_TapedNamespace):
    """What array_api_compat makes of CuPy: arrays are made on the card that is current."""

    def __init__(self) -> None:
        super().__init__(_Namespace())

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if isinstance(value, type) or not callable(value):
            return value
        return lambda *arguments, device=None, **options: value(*arguments, **options)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `import cupy` and `import array_api_compat.cupy` find the stand-ins, and nothing find cuDNN."""
    cupy: Any = ModuleType("cupy")
    pool = Pool()
    cupy.__version__ = "14.0"
    cupy.get_default_memory_pool = lambda: pool
    cupy.asnumpy = lambda array: TAPE.refuse("a copy to the host") or np.array(_plain(array))
    cupy.RawModule = lambda code, options: _TapedModule(_Module(CARD, code, options))
    runtime = SimpleNamespace(
        CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}),
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda index: {"name": b"Some card", "major": 9, "minor": 0},
        memGetInfo=lambda: (MEMORY, MEMORY),
    )

    @contextmanager
    def using_allocator(allocator: Any) -> Any:
        assert allocator is not None
        yield

    cupy.cuda = SimpleNamespace(
        Device=Device, Stream=Stream, MemoryPool=Pool, runtime=runtime, using_allocator=using_allocator,
        driver=SimpleNamespace(CUDADriverError=type("CUDADriverError", (RuntimeError,), {})),
    )  # fmt: skip
    cupyx: Any = ModuleType("cupyx")
    cupyx.empty_pinned = np.empty
    namespace: Any = ModuleType("array_api_compat.cupy")
    found = Namespace()
    namespace.__getattr__ = lambda name: getattr(found, name)
    for name, module in {"cupy": cupy, "cupyx": cupyx, "array_api_compat.cupy": namespace, "cudnn": None}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("array_api_compat.cupy", namespace, raising=False)
