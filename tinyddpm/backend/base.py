"""The contract of backends.

A backend is an explicit object, passed down to all code that computes. It offers one array API namespace (`xp`), moves
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
    """One array library on one device. Subclasses set `name` and `xp`, and override the moving of data.

    Attributes:
        name: the registered name.
        xp: a namespace of the array API standard (2023.12 or later), as array-api-compat offers it.
        device: the device that arrays are made on, in the namespace's own terms.
        operations: `module:attribute` of the operations class; imported when operations are first asked for.
        precisions: the precisions of networks. All backends have "fp32"; one that has others takes one of them as the
            option `precision`.
        precision: the precision in use.
        graphs: whether `captured` can record launches and replay them. If so, the option `graph` switches it on or off,
            and training reads nothing back from the device before the end of a step.
        spreads: whether operations share their work among idle threads, as when a batch is not cut into parts.
        memory_errors: exceptions that the library raises when memory runs out.
        requires: modules of libraries beyond the package's dependencies, with the argument of `pip install` for each.
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
        """The type of a network's activations and matrices: float32, or bfloat16 with the precision "bf16"."""
        if self.precision != "bf16":
            return self.xp.float32
        from ml_dtypes import bfloat16

        return bfloat16

    @contextmanager
    def beside(self, *kept: Array) -> Iterator[None]:
        """Allow what is launched inside to run beside what is launched afterwards, until `join`: here it does not.

        Nothing launched afterwards may change `kept`, the arrays that it reads, or read what it writes.
        """
        yield

    def join(self) -> None:
        """Let what is launched from here on wait for what was launched `beside`."""

    def captured(self, function: Function) -> Function:
        """Return a function equal to `function` that replays its launches, if the backend records them."""
        return function

    def host_buffer(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Return an uninitialised host array from which `upload` is fastest."""
        return np.empty(shape, dtype)

    def upload(self, array: Array, values: np.ndarray[Any, Any]) -> None:
        """Write host values into an array of the same shape; they must not change before the device has read them."""
        array[...] = self.asarray(values)

    def random(self, seed: int) -> Random:
        """Return the stateless random numbers of `seed`, drawn on this backend's device."""
        return Random(self.xp, seed, self.device)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Return the context manager within which this backend computes.

        Raises:
            OutOfMemoryError: the code within it ran out of memory.
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
        """Return the number of threads that share a batch: `wanted`, or if 0 as many as help; here, always 1."""
        return 1

    def blocks(self, size: int) -> list[slice]:
        """Return the slices of a flat buffer of `size` elements that make several passes over it fastest: here, one."""
        return [slice(0, size)]

    def _context(self) -> AbstractContextManager[Any]:
        """Return the context manager that the library itself needs around its computations."""
        return nullcontext()

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""

    def peak_memory(self) -> int:
        """Return the peak of memory in use on the device, in bytes; on a CPU, the process's peak resident size.

        It is 0 on systems that do not report it, such as Windows.
        """
        try:
            import resource
        except ImportError:
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def forget_peak(self) -> None:
        """Begin to measure `peak_memory` anew, after memory that is not in use was given back; a CPU cannot."""

    def free_memory(self) -> int:
        """Return the free memory of the device, in bytes."""
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def describe(self) -> str:
        """Return library, version and device in one line."""
        return self.name
