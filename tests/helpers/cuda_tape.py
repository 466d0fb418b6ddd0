"""CUDA graphs on the CPU: a shim backend that records the launches of a function, and replays them.

As on a GPU, nothing is computed while a function is recorded, and a replay works on the same arrays: values that the
function took from the host are not read again. An operation that a GPU cannot record is an error here, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from helpers.cuda_shim import ShimBackend
from tinyddpm.backend.captured import Arrays, Captured, Function

WAITING = ("clip", "nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values")
"""Array functions for which array-api-compat or CuPy reads a number of elements from the GPU, and so waits for it."""


class Tape:
    """The launches, in order, that were recorded while `active`.

    Attributes:
        asked: number of times that the host waited for the device or copied to it, by operation.
    """

    def __init__(self) -> None:
        self.active = False
        self.asked = Counter[str]()
        self.launches: list[Callable[[], Any]] = []

    def do(self, launch: Callable[[], Any]) -> None:
        """Record a launch while a graph is recorded, else run it."""
        self.launches.append(launch) if self.active else launch()

    def result(self, compute: Callable[[], Any], *sources: Any) -> Any:
        """Return the result of a function, and record its computation, unless the result is a view of a source."""
        # What is recorded works on numbers that are not there yet.
        with np.errstate(all="ignore") if self.active else nullcontext():
            found = compute()
        if not isinstance(found, (np.ndarray, np.generic)):
            return found
        array = np.asarray(found)
        if self.active and not any(np.may_share_memory(array, source) for source in sources):
            self.launches.append(lambda: np.copyto(array, compute()))
        return array.view(TapedArray)

    def refuse(self, what: str, error: type[RuntimeError] = RuntimeError) -> None:
        """Raise CuPy's error while a graph is recorded, for copies a RuntimeError; else count the operation."""
        self.asked[what] += 1
        if self.active:
            raise error(f"{what} while a graph is recorded")


TAPE = Tape()


class TapedArray(np.ndarray):
    """An array whose operators and methods are recorded on the tape."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        if ufunc is np.matmul:
            TAPE.refuse("a product by cuBLAS", NotImplementedError)
        plain = [_plain(a) for a in inputs]
        call = getattr(ufunc, method)
        if out:
            target = _plain(out[0])
            TAPE.do(lambda: call(*plain, out=(target,), **options))
            return out[0]
        return TAPE.result(lambda: call(*plain, **options))

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        return _called(function, arguments, options)

    def __getitem__(self, key: Any) -> Any:
        plain, at = _plain(self), _plain(key)
        _refuse_masks(at)
        return TAPE.result(lambda: plain[at], plain)

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(value, (TapedArray, int, float, np.generic)):
            TAPE.refuse("a copy from the host")
        plain, at, source = _plain(self), _plain(key), _plain(value)
        _refuse_masks(at)
        TAPE.do(lambda: plain.__setitem__(at, source))

    def astype(self, dtype: Any, **options: Any) -> Any:
        plain = _plain(self)
        return TAPE.result(lambda: plain.astype(dtype, **options), plain)

    def copy(self, *_: Any) -> Any:
        plain = _plain(self)
        return TAPE.result(plain.copy)

    def set(self, values: Any) -> None:
        """Copy host values into a contiguous array, as CuPy's arrays do."""
        TAPE.refuse("a copy from the host")
        assert self.flags.c_contiguous
        assert values.dtype == self.dtype
        _plain(self)[...] = values

    def reshape(self, *shape: Any, **options: Any) -> Any:
        plain = _plain(self)
        return TAPE.result(lambda: plain.reshape(*shape, **options), plain)

    def __float__(self) -> float:
        TAPE.refuse("a number asked for")
        return float(_plain(self))

    def __bool__(self) -> bool:
        TAPE.refuse("a truth asked for")
        return bool(_plain(self))

    def __index__(self) -> int:
        TAPE.refuse("a whole number asked for")
        return int(_plain(self))

    __int__ = __index__


class _TapedNamespace:
    """A namespace whose functions are recorded on the tape."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._xp, name)
        if isinstance(value, type) or not callable(value):
            return value

        def taped(*arguments: Any, **options: Any) -> Any:
            if name == "asarray" and not isinstance(arguments[0], TapedArray):
                TAPE.refuse("a copy from the host")
            if name in WAITING:
                TAPE.refuse(f"elements by a mask, in {name}")
            return _called(value, arguments, options, filled=name not in ("empty", "empty_like"))

        return taped


class _TapedModule:
    """Kernels whose launches are recorded on the tape."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def get_function(self, name: str) -> Any:
        return _TapedKernel(self._module.get_function(name))


class _TapedKernel:
    def __init__(self, kernel: Any) -> None:
        self.__dict__["_kernel"] = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._kernel, name, value)

    def __call__(self, grid: Any, block: Any, arguments: tuple[Any, ...], shared_mem: int) -> None:
        given = tuple(_plain(argument) for argument in arguments)
        TAPE.do(lambda: self._kernel(grid, block, given, shared_mem=shared_mem))


class TapeBackend(ShimBackend):
    """The shim backend with graphs.

    Attributes:
        recorded: number of launches of each graph.
    """

    def __init__(self, shared_memory: int = 48 * 1024, precision: str = "fp32") -> None:
        super().__init__(shared_memory, precision)
        self.xp = _TapedNamespace(self.xp)
        self.recorded: list[int] = []
        self._late: list[Callable[[], Any]] = []
        self._kept: tuple[Any, ...] = ()

    def compile(self, code: str, options: tuple[str, ...]) -> Any:
        return _TapedModule(super().compile(code, options))

    def captured(self, function: Function) -> Function:
        return Captured(self._record, function)

    @contextmanager
    def beside(self, *kept: Any) -> Iterator[None]:
        """Record what is launched inside as late as it may run: when it is joined."""
        if not TAPE.active:
            yield
            return
        self.join()
        before, TAPE.launches = TAPE.launches, []
        yield
        self._late, TAPE.launches, self._kept = TAPE.launches, before, kept

    def join(self) -> None:
        """Record what was launched `beside`."""
        TAPE.launches += self._late
        self._late, self._kept = [], ()

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        TAPE.refuse("a copy to the host")
        return np.asarray(_plain(array))

    def _record(self, function: Callable[[], Arrays]) -> tuple[Arrays, Callable[[], None]]:
        assert not TAPE.active
        TAPE.active, TAPE.launches, self._late = True, [], []
        try:
            outputs = function()
            self.join()
        finally:
            launches, TAPE.launches, TAPE.active = TAPE.launches, [], False
        self.recorded.append(len(launches))

        def replay() -> None:
            for launch in launches:
                launch()

        return outputs, replay


def _called(function: Any, arguments: Any, options: Any, filled: bool = True) -> Any:
    """Return the result of a function on plain arrays."""
    plain, options = _plain(arguments), _plain(options)
    if not filled:
        return function(*plain, **options).view(TapedArray)
    return TAPE.result(lambda: function(*plain, **options), *_arrays(plain))


def _refuse_masks(key: Any) -> None:
    """Refuse to select elements by a mask: CuPy reads their number from the GPU."""
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, np.ndarray) and part.dtype == np.bool_:
            TAPE.refuse("elements by a mask")


def _plain(value: Any) -> Any:
    """Return arrays as NumPy's own, sharing memory; also those in tuples, lists and dictionaries."""
    if isinstance(value, TapedArray):
        return value.view(np.ndarray)
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _arrays(values: Any) -> list[np.ndarray[Any, Any]]:
    """Return the arrays among arguments."""
    found: list[np.ndarray[Any, Any]] = []
    for value in values:
        if isinstance(value, np.ndarray):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _arrays(value)
    return found
