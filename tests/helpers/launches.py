"""Counting the launches of a graph without running them: a tape whose kernels and cuDNN do nothing."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from helpers.cuda_shim import _Namespace
from helpers.cuda_tape import TAPE, TapeBackend, _TapedNamespace
from tinyddpm.backend import Array
from tinyddpm.ops.cuda import cudnn
from tinyddpm.ops.cuda.cudnn_frontend import Problem

ELSE = "an array function"


class CountingBackend(TapeBackend):
    """A backend with an H100's shared memory, which runs array functions but no kernels.

    It fails where an array that a branch of the graph reads, and did not allocate itself, is let go of before the
    branch is joined: the other branch could take its memory.

    Attributes:
        launches: number of launches of the last graph, by kernel; array functions are counted together.
    """

    def __init__(self, precision: str) -> None:
        super().__init__(232448, precision)
        self.xp = _TapedNamespace(_Unfilled(self))
        self.launches = Counter[str]()
        self.branch: list[weakref.ref[Any]] | None = None
        self._read: list[weakref.ref[Any]] = []

    def compile(self, code: str, options: tuple[str, ...]) -> Any:
        return _Idle(self)

    def _record(self, function: Callable[[], Any]) -> Any:
        self.launches.clear()
        found = super()._record(function)
        self.launches[ELSE] = self.recorded[-1] - self.launches.total()
        return found

    @contextmanager
    def beside(self, *kept: Any) -> Iterator[None]:
        with super().beside(*kept):
            self.branch = [] if TAPE.active else None
            yield
            self.branch = None

    def join(self) -> None:
        assert all(array() is not None for array in self._read), "what a branch reads was let go of"
        self._read = []
        super().join()

    def launch(self, name: str, arguments: Iterable[Any]) -> None:
        """Record a launch that does nothing, and count it while a graph is recorded."""
        self.launches[name] += TAPE.active
        TAPE.do(lambda: None)
        if self.branch is not None:
            own = [array() for array in self.branch]
            owners = [_owner(array) for array in arguments if isinstance(array, np.ndarray)]
            self._read += [weakref.ref(owner) for owner in owners if not any(owner is array for array in own)]


def _owner(array: Any) -> Any:
    """Return the array whose memory a view shows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class _Unfilled(_Namespace):
    def __init__(self, backend: CountingBackend) -> None:
        self._backend = backend

    def empty(self, shape: tuple[int, ...], dtype: Any, device: Any = None) -> np.ndarray:
        array = np.empty(shape, dtype)
        if self._backend.branch is not None:
            self._backend.branch.append(weakref.ref(array))
        return array


class _Idle:
    """A module or a kernel that does nothing."""

    max_dynamic_shared_size_bytes = 232448

    def __init__(self, backend: CountingBackend, name: str = "") -> None:
        self._backend, self._name = backend, name

    def get_function(self, name: str) -> _Idle:
        return _Idle(self._backend, name)

    def __call__(self, grid: Any, block: Any, arguments: tuple[Any, ...], shared_mem: int) -> None:
        self._backend.launch(self._name, arguments)


class IdlePlanner:
    """A planner with a plan for every convolution, which is one launch."""

    def __init__(self, backend: CountingBackend) -> None:
        self._backend = backend

    def address(self, array: Array) -> int:
        return int(array.ctypes.data)

    def find(self, problem: Problem, *_: Callable[..., object]) -> Callable[..., Array]:
        def run(*inputs: Array) -> Array:
            self._backend.launch(f"cuDNN's {problem.wanted}", inputs)
            return self._backend.xp.empty(problem.shapes()[-1], dtype=inputs[0].dtype)

        return run


def install_cudnn(monkeypatch: pytest.MonkeyPatch, backend: CountingBackend) -> None:
    """Make operations on this backend find cuDNN."""
    backend.device = "cpu"
    planner = IdlePlanner(backend)
    monkeypatch.setattr(cudnn, "planner", lambda _: planner)
