"""The array layer: what a backend is.

A backend is an explicit object, passed down to whatever computes. It offers one array API namespace (`xp`), moves
arrays to and from the host, names the class of its operations, and draws random numbers that are the same everywhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import numpy as np

from tinyddpm.backend.array import Array
from tinyddpm.backend.captured import Function
from tinyddpm.backend.random import Random
from tinyddpm.errors import OutOfMemoryError


class Backend:
    """One array library on one device. Subclasses set `name` and `xp` and know how to move data.

    Attributes:
        name: the registered name.
        xp: a namespace of the array API standard (2023.12 or later), as array-api-compat offers it.
        device: the device that arrays are made on, in the namespace's own terms.
        operations: `module:attribute` of the operations class; imported when operations are first asked for.
        precisions: what networks can be computed in. All compute in "fp32"; a backend that has others takes one as
            the option `precision`.
        precision: which of them it computes in.
        graphs: whether it can record what it does and do it again, by `captured`; then it takes the option `graph`,
            which is whether to, and training asks it for nothing before the end of a step.
        spreads: whether operations share their work by threads that are idle, as where a batch is not cut over them.
        memory_errors: what the library raises where memory runs out.
        requires: the modules of libraries beyond the package's dependencies, with what `pip install` takes for each.
    """

    name: str = ""
    operations: str = "tinyddpm.ops:Operations"
    precisions: tuple[str, ...] = ("fp32",)
    graphs: bool = False
    spreads: bool = False
    memory_errors: tuple[type[Exception], ...] = (MemoryError,)
    requires: ClassVar[Mapping[str, str]] = {}

    def __init__(self, xp: Any, device: Any = None, precision: str = "fp32") -> None:
        self.xp = xp
        self.device = device
        self.precision = precision

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """Return `values` (host array, scalars or an array of this backend) on the device, as `dtype` if given."""
        return self.xp.asarray(values, dtype=dtype, device=self.device)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """Return a host copy or view of `array`."""
        return np.asarray(array)

    @property
    def storage(self) -> Any:
        """The type that networks keep activations and matrices in: float32, or bfloat16 with the precision "bf16"."""
        if self.precision != "bf16":
            return self.xp.float32
        from ml_dtypes import bfloat16

        return bfloat16

    def captured(self, function: Function) -> Function:
        """Return what does the same as `function`, by replaying its launches where the backend records them."""
        return function

    def host_buffer(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Return host memory, not set, that `upload` is quickest from."""
        return np.empty(shape, dtype)

    def upload(self, array: Array, values: np.ndarray[Any, Any]) -> None:
        """Write host values into an array of the same shape; they may change only once the device has read them."""
        array[...] = self.asarray(values)

    def random(self, seed: int) -> Random:
        """Return the stateless random numbers of `seed`, drawn on this backend's device."""
        return Random(self.xp, seed, self.device)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Make the context in which this backend computes.

        Raises:
            OutOfMemoryError: what was done in it does not fit the memory.
        """
        try:
            with self._context():
                yield
        except self.memory_errors as cause:
            raise OutOfMemoryError(
                f"out of memory on {self.describe()}, with {self.peak_memory() / 2**30:.2f} GiB in use: take fewer "
                "samples at a time with a smaller --batch-size"
            ) from cause

    def threads(self, wanted: int) -> int:
        """Return how many threads share a batch if `wanted` are (0: as many as help); 1 if the library sees to it."""
        return 1

    def blocks(self, size: int) -> list[slice]:
        """Return the slices in which several passes over a flat buffer of `size` elements are best done: here, one."""
        return [slice(0, size)]

    def _context(self) -> AbstractContextManager[Any]:
        """Return what the library itself needs around its computations."""
        return nullcontext()

    def synchronize(self) -> None:
        """Wait until everything asked of the device is done."""

    def peak_memory(self) -> int:
        """Return the most bytes in use so far where the arrays live; on a CPU, the process's peak resident size.

        It is 0 where the system does not tell it, as Windows does not.
        """
        try:
            import resource
        except ImportError:
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def free_memory(self) -> int:
        """Return the bytes that are free where the arrays live."""
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def describe(self) -> str:
        """Return one line: library, version, device."""
        return self.name
