"""How functions are compiled, and what of them is compiled before it is called."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numba
from numba.core.sigutils import normalize_signature

F = TypeVar("F", bound=Callable[..., Any])

FASTMATH = {"nsz", "arcp", "contract", "afn"}
"""What arithmetic may assume. Not that there are no NaN and no infinities: they must come through."""


def compiled(function: F) -> F:
    """Return `function` compiled for the types it is called with, once a machine: the code is kept on disk.

    It lets go of the interpreter while it runs, and divides as NumPy does: with a branch for zero, which Python has,
    no loop would be vectorised.
    """
    result: F = kept(numba.njit(error_model="numpy", nogil=True, fastmath=FASTMATH)(function))
    return result


def kept(dispatcher: Any) -> Any:
    """Return what Numba made of a function, its code from now on kept on disk.

    It lies in `__pycache__` beside the source, or in the user's cache folder where that cannot be written to; a process
    that can write to neither keeps its own. Code is used again until a Python source changes in the folder above the
    function's, which is `ops`. Numba alone would look at the function's own file, and go on with the functions and the
    constants that other files held before. So of this package, compiled functions use what is in `ops` alone.
    """
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # there is no folder to write to
        return dispatcher
    dispatcher._cache._cache_file._source_stamp = _sources(Path(dispatcher.py_func.__code__.co_filename).parents[1])
    return dispatcher


class Ahead(NamedTuple):
    """A compiled function, and the types of the arguments that it is going to be called with."""

    function: Any
    types: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Where the function is found: its module, and its name there."""
        return f"{self.function.__module__}:{self.function.__name__}"

    def is_missing(self) -> bool:
        """Whether its code should be on disk, and is not."""
        kept = self.function._cache
        if kept.cache_path is None:
            return False
        codegen = self.function.targetctx.codegen()
        return kept._cache_file.load(kept._index_key(self.types, codegen)) is None


AHEAD: list[Ahead] = []
"""What modules that are imported have declared."""


def ahead(types: str) -> Callable[[F], F]:
    """Declare what a compiled function is called with in training, so that `prepare` can compile it before.

        @ahead("f4[:, ::1], f4[::1], i8")
        @compiled
        def scaled(x, scale, groups): ...

    For other types, as of float64, it is compiled when it is called. A function that is called by compiled functions
    alone is compiled with them, and needs no types.

    Args:
        types: of the arguments, in Numba's words. "f4[:, ::1]" is a float32 array of two dimensions in C order, "i8" a
            whole number of Python's, "f8" a real one, "b1" a truth.
    """
    arguments, _ = normalize_signature(f"({types},)")

    def declare(function: F) -> F:
        AHEAD.append(Ahead(function, arguments))
        return function

    return declare


@cache
def _sources(folder: Path) -> str:
    """Return the hash of all Python sources in a folder and those below, with their paths."""
    digest = sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + sha256(path.read_bytes()).digest())
    return digest.hexdigest()
