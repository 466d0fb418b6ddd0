"""CUDA kernels on the CPU: a backend with NumPy's arrays, whose RawModule is C++ that loops over blocks and threads."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import array_api_compat.numpy
import numpy as np

from tinyddpm.backend import Backend, Random
from tinyddpm.ops.cuda.random import CupyRandom

FOLDER = Path(__file__).parent
GUARD = 4096
"""Number of guard bytes before and after each array. Kernels must not write to them; read as float32 they are NaN."""

COMPILER = shutil.which("g++") or shutil.which("clang++")

KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(')
"""Pattern of a kernel's definition, with its name."""

FLAGS = ("-std=c++17", "-O3", "-w", "-U_FORTIFY_SOURCE", "-fsanitize=alignment", "-Wl,-Bsymbolic", "-shared", "-fPIC")

LIBRARIES = FOLDER.parents[1] / "build" / "kernels"
"""Folder of compiled kernels, for other processes and later runs."""


class ShimBackend(Backend):
    """A stand-in for the CuPy backend that runs kernels on the CPU. New arrays are NaN until they are written to.

    Args:
        shared_memory: largest shared memory of a block in bytes.
        precision: as for the CuPy backend.
    """

    name = "cupy"
    operations = "tinyddpm.ops.cupy_operations:CupyOperations"
    graphs = True

    def __init__(self, shared_memory: int = 48 * 1024, precision: str = "fp32") -> None:
        super().__init__(_Namespace(), precision=precision)
        self.shared_memory = shared_memory
        self.launched: list[str] = []

    def compile(self, code: str, options: tuple[str, ...]) -> _Module:
        """Return a RawModule whose kernels run on the CPU."""
        return _Module(self, code, options)

    def random(self, seed: int) -> Random:
        return CupyRandom(self, seed)


class _Namespace:
    """NumPy's namespace, but `empty` returns NaN, so that elements that a kernel does not write are noticed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(array_api_compat.numpy, name)

    def empty(self, shape: tuple[int, ...], dtype: Any, device: Any = None) -> np.ndarray:
        array = np.empty(shape, dtype)
        array.view(np.uint8).fill(0xFF) if array.ndim else array.fill(np.nan)
        return array

    def empty_like(self, array: np.ndarray) -> np.ndarray:
        return self.empty(array.shape, array.dtype)


class _Module:
    """A stand-in for CuPy's RawModule."""

    def __init__(self, backend: ShimBackend, code: str, options: tuple[str, ...]) -> None:
        self._backend, self._code, self._options = backend, code, options

    def get_function(self, name: str) -> _Kernel:
        return _Kernel(self._backend, name, getattr(_library(self._code, self._options), f"shim_{name}"))


class _Kernel:
    """A stand-in for CuPy's RawKernel, called with grid, block and arguments."""

    def __init__(self, backend: ShimBackend, name: str, entry: Any) -> None:
        self._backend, self._name, self._entry = backend, name, entry
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_mem: int) -> None:
        """Run all blocks, with guards around each array."""
        assert shared_mem <= self.max_dynamic_shared_size_bytes <= max(48 * 1024, self._backend.shared_memory)
        guarded = [_Guarded(argument) if isinstance(argument, np.ndarray) else None for argument in args]
        values = [ctypes.c_void_p(g.address) if g else _scalar(a) for a, g in zip(args, guarded, strict=True)]
        pointers = (ctypes.c_void_p * len(args))(*(ctypes.addressof(value) for value in values))
        kinds = (ctypes.c_int * len(args))(*map(_kind, args))
        size = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
        self._entry.restype = ctypes.c_char_p
        fault = self._entry(size, ctypes.c_size_t(shared_mem), pointers, kinds, len(args)).decode()
        assert not fault, f"{self._name} {fault}"
        for number, (argument, guard) in enumerate(zip(args, guarded, strict=True)):
            if guard:
                assert guard.intact(), f"{self._name} writes outside argument {number}, of shape {argument.shape}"
                if argument.flags.writeable:
                    argument[...] = guard.array
                else:
                    assert guard.array.tobytes() == argument.tobytes(), f"{self._name} writes to its input {number}"
        self._backend.launched.append(self._name)


class _Guarded:
    """A copy of an array with guards around it, with the alignment of the array's address, up to 16 bytes."""

    def __init__(self, array: np.ndarray) -> None:
        room = np.full(2 * GUARD + array.nbytes + 16, 0xFF, np.uint8)
        self._bytes = room[(array.ctypes.data - room.ctypes.data) % 16 :][: 2 * GUARD + array.nbytes]
        self.array = self._bytes[GUARD : GUARD + array.nbytes].view(array.dtype).reshape(array.shape)
        self.array[...] = array
        self.address = self.array.ctypes.data

    def intact(self) -> bool:
        return bool((self._bytes[:GUARD] == 0xFF).all() and (self._bytes[-GUARD:] == 0xFF).all())


def _kind(argument: np.ndarray | np.generic) -> int:
    """Return the number that stands for a parameter's type in cuda_shim.hpp."""
    if isinstance(argument, np.uintp) and argument == 0:
        return -1
    number = 100 * (argument.dtype.kind == "f") + argument.dtype.itemsize
    return 1000 + number if isinstance(argument, np.ndarray) else number


def _scalar(argument: np.generic) -> Any:
    return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())


@cache
def _library(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """Return the shared library of a family, compiled as C++ with an entry for each of its kernels.

    It is compiled once for all processes and runs: its name is a digest of sources, options and compiler. Two processes
    that compile it at the same time write the same file twice.
    """
    entries = "\n".join(f"SHIM_ENTRY({name})" for name in KERNEL.findall(code))
    room = "float shared[(shim::MOST_SHARED + shim::GUARD) / sizeof(float)];"
    text = f'#include "cuda_shim.hpp"\n{code}\n{room}\n{entries}\n'
    assert COMPILER is not None
    command = [COMPILER, *FLAGS, *(option for option in options if option.startswith("-D"))]
    digest = hashlib.sha256(repr((text, _headers(), command, _version(COMPILER))).encode()).hexdigest()
    target = LIBRARIES / f"{digest}.so"
    if not target.exists():
        LIBRARIES.mkdir(parents=True, exist_ok=True)
        made = target.with_suffix(f".{os.getpid()}")
        command += [f"-I{FOLDER}", "-xc++", "-", "-o", str(made)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        made.replace(target)
    return ctypes.CDLL(str(target))


@cache
def _headers() -> list[str]:
    """Return the text of the stand-in's headers."""
    return [path.read_text() for path in sorted(FOLDER.glob("*.hpp"))]


@cache
def _version(compiler: str) -> str:
    """Return a compiler's version, and its target machine."""
    return subprocess.run([compiler, "-v"], capture_output=True, text=True, check=True).stderr
