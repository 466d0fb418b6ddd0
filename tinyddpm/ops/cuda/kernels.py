"""Compiling and launching the kernels of the `.cu` files beside this one."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinyddpm.backend import Backend
from tinyddpm.ops.cuda.geometry import Geometry

FOLDER = Path(__file__).parent
FAMILIES = (
    "activation", "channels", "convolution", "gemm", "group_norm", "loss", "optimisation", "packing", "random",
    "resampling", "softmax", "sums",
)  # fmt: skip
"""Names of the `.cu` files, without the suffix."""

STORAGE: dict[str, tuple[str, ...]] = {"float32": (), "tf32": ("-DTF32",), "bfloat16": ("-DSCALAR_BF16",)}
"""Compiler options by storage type of activations; "tf32" is float32 with factors of products rounded to TF32."""

OPTIONS = ("--std=c++17",)
"""Compiler options of all kernels. CuPy adds -ftz=true, which replaces subnormal float32 numbers, < 2^-126, by 0."""

INCLUDE = re.compile(r'#include "(\w+\.cuh)"\n')
STATIC_SHARED = 48 * 1024
"""Bytes of shared memory that a block may use unless the kernel's limit is raised."""


class CudaBackend(Protocol):
    """The part of a backend that kernels use.

    Attributes:
        shared_memory: largest shared memory of a block, in bytes.
    """

    shared_memory: int

    def compile(self, code: str, options: tuple[str, ...]) -> Any:
        """Return CuPy's RawModule of `code`: the same object for the same arguments."""
        ...


class Kernels:
    """The kernels on one backend. A family is compiled when one of its kernels is first launched, once per process."""

    def __init__(self, backend: Backend | CudaBackend) -> None:
        self._backend: Any = backend
        self._functions: dict[tuple[str, tuple[str, ...]], Any] = {}

    @property
    def shared_memory(self) -> int:
        """Largest shared memory of a block, in bytes."""
        return int(self._backend.shared_memory)

    def launch(self, family: str, name: str, storage: str, geometry: Geometry, *arguments: Any) -> None:
        """Launch kernel `name` of a family, compiled for activations stored as `storage` and the geometry's options.

        Args:
            family: one of FAMILIES.
            name: name of the kernel.
            storage: a key of STORAGE.
            geometry: grid, block, shared memory and compiler options.
            arguments: contiguous arrays, None for a null pointer, an int for an `int`, a float for a `float`, and
                NumPy scalars for parameters of other types.
        """
        options = STORAGE[storage] + geometry.options
        if (name, options) not in self._functions:
            module = self._backend.compile(source(family), OPTIONS + options)
            self._functions[name, options] = module.get_function(name)
        function = self._functions[name, options]
        if geometry.shared > STATIC_SHARED and geometry.shared > function.max_dynamic_shared_size_bytes:
            function.max_dynamic_shared_size_bytes = geometry.shared
        packed = tuple(_argument(name, argument) for argument in arguments)
        function(geometry.grid, geometry.block, packed, shared_mem=geometry.shared)


@cache
def source(family: str) -> str:
    """Return the source of a family with its headers inserted: CuPy's cache does not notice changes in headers."""
    return _with_headers(f"{family}.cu")


def _with_headers(name: str) -> str:
    """Return the text of a file with each header inserted in place of its #include; no file includes one twice."""
    return INCLUDE.sub(lambda found: _with_headers(found[1]), (FOLDER / name).read_text(encoding="utf-8"))


def _argument(name: str, value: Any) -> Any:
    """Return `value` in the type of the kernel's parameter. CUDA converts no arguments, so types must be exact."""
    if value is None:
        return np.uintp(0)
    if isinstance(value, np.generic):
        return value
    if isinstance(value, int):
        return np.int32(value)
    if isinstance(value, float):
        return np.float32(value)
    if not value.flags.c_contiguous:
        raise ValueError(f"kernel {name} was given an array of strides {value.strides} that is not contiguous")
    return value
