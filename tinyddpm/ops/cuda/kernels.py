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
"""The `.cu` files."""

STORAGE: dict[str, tuple[str, ...]] = {"float32": (), "tf32": ("-DTF32",), "bfloat16": ("-DSCALAR_BF16",)}
"""What activations can be stored as, with the compiler's options for it; "tf32" is float32 whose products round."""

OPTIONS = ("--std=c++17",)
"""The compiler's options for all. CuPy adds -ftz=true: of float32, what is nearer to 0 than 2^-126 is taken for 0."""

INCLUDE = re.compile(r'#include "(\w+\.cuh)"\n')
STATIC_SHARED = 48 * 1024
"""Bytes of shared memory that a block gets without asking for more."""


class CudaBackend(Protocol):
    """What kernels need of a backend. It also says how much shared memory a block can have, in bytes."""

    shared_memory: int

    def compile(self, code: str, options: tuple[str, ...]) -> Any:
        """Return CuPy's RawModule of `code`, the same one each time."""
        ...


class Kernels:
    """The kernels on one backend: each family is compiled when it is first launched from, once in a process."""

    def __init__(self, backend: Backend | CudaBackend) -> None:
        self._backend: Any = backend
        self._functions: dict[tuple[str, tuple[str, ...]], Any] = {}

    @property
    def shared_memory(self) -> int:
        """The most bytes of shared memory that a block can have."""
        return int(self._backend.shared_memory)

    def launch(self, family: str, name: str, storage: str, geometry: Geometry, *arguments: Any) -> None:
        """Launch kernel `name` of a family, compiled for activations stored as `storage` and the geometry's options.

        Args:
            family: one of FAMILIES.
            name: of the kernel.
            storage: a key of STORAGE.
            geometry: grid, block and shared memory.
            arguments: contiguous arrays; None for no array; an int for an `int`, a float for a `float`, and for other
                types NumPy's scalars.
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
    """Return the source of a family, its headers in their places: CuPy's cache does not look into headers."""
    return _with_headers(f"{family}.cu", set())


def _with_headers(name: str, seen: set[str]) -> str:
    """Return the text of a file, each header that was not seen before in its place."""

    def header(found: re.Match[str]) -> str:
        if found[1] in seen:
            return ""
        seen.add(found[1])
        return _with_headers(found[1], seen)

    return INCLUDE.sub(header, (FOLDER / name).read_text(encoding="utf-8"))


def _argument(name: str, value: Any) -> Any:
    """Return `value` as the kernel's parameter has it. A kernel takes what it is given: types must be exact."""
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
