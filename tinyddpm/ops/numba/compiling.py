"""Compiling functions with Numba, caching their code on disk, and declaring what to compile before the first call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numba
from numba.core.sigutils import normalize_signature

from tinyddpm import backend

F = TypeVar("F", bound=Callable[..., Any])

FASTMATH = {"nsz", "arcp", "contract", "afn"}
"""LLVM's fast-math flags for compiled functions. nnan and ninf are not among them: NaN and infinities propagate."""


def compiled(function: F) -> F:
    """Return `function` as a compiled function, specialised to the argument types of its calls and cached on disk.

    It releases the GIL while it runs. Division by zero gives infinity or NaN, as in NumPy: the check that Python's
    division makes would keep loops from being vectorised.
    """
    result: F = kept(numba.njit(error_model="numpy", nogil=True, fastmath=FASTMATH)(function))
    return result


def kept(dispatcher: Any) -> Any:
    """Return a Numba dispatcher after enabling its cache on disk.

    The cache is `__pycache__` beside the source, or else the user's cache folder; a process that can write to neither
    caches in memory. Cached code is valid until a Python source changes in `ops`, the folder above the function's, or
    in `backend`. Numba by itself watches the function's own file only, and would reuse code compiled with functions and
    constants that have since changed in other files. Compiled functions therefore use no other modules of this package.
    """
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # there is no folder to write to
        return dispatcher
    folders = Path(dispatcher.py_func.__code__.co_filename).parents[1], Path(backend.__file__).parent
    dispatcher._cache._cache_file._source_stamp = [_sources(folder) for folder in folders]
    return dispatcher


class Ahead(NamedTuple):
    """A compiled function and the argument types that training calls it with."""

    function: Any
    types: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The function's module and name, as "module:name"."""
        return f"{self.function.__module__}:{self.function.__name__}"

    def is_missing(self) -> bool:
        """Whether the cache on disk is in use and lacks this code."""
        kept = self.function._cache
        if kept.cache_path is None:
            return False
        codegen = self.function.targetctx.codegen()
        return kept._cache_file.load(kept._index_key(self.types, codegen)) is None


AHEAD: list[Ahead] = []
"""All declarations of the modules imported so far."""


def ahead(types: str) -> Callable[[F], F]:
    """Declare the argument types that training calls a compiled function with, so that `prepare` can compile it.

        @ahead("f4[:, ::1], f4[::1], i8")
        @compiled
        def scaled(x, scale, groups): ...

    For other types, such as float64, it is compiled when first called. A function that only compiled functions call is
    compiled with them and needs no declaration.

    Args:
        types: argument types in Numba's notation. "f4[:, ::1]" is a two-dimensional float32 array in C order, "i8" a
            Python int, "f8" a Python float, "b1" a bool.
    """
    arguments, _ = normalize_signature(f"({types},)")

    def declare(function: F) -> F:
        AHEAD.append(Ahead(function, arguments))
        return function

    return declare


@cache
def _sources(folder: Path) -> str:
    """Return a SHA-256 hash of the paths and contents of all Python sources in a folder and its subfolders."""
    digest = sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + sha256(path.read_bytes()).digest())
    return digest.hexdigest()
