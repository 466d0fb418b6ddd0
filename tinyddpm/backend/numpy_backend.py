"""NumPy on the CPU: the default backend, which needs no extra package."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from tinyddpm.backend.base import Backend
from tinyddpm.backend.memory import keep_freed_memory
from tinyddpm.backend.processor import silu_function
from tinyddpm.errors import BackendError

BLOCK = 1 << 16
"""Elements of a block of a flat buffer: 256 KiB of float32, so that blocks of a few buffers fit a core's cache."""


class NumpyBackend(Backend):
    """NumPy arrays on the CPU. The first one makes the process keep freed memory, see `keep_freed_memory`.

    Raises:
        BackendError: the device is neither None nor "cpu".
    """

    name = "numpy"
    operations = "tinyddpm.ops.numpy_operations:NumpyOperations"

    def __init__(self, device: str | None = None) -> None:
        if device not in (None, "cpu"):
            raise BackendError(
                f"the numpy backend has no device {device!r}, only 'cpu': use backend cupy or torch for it"
            )
        import array_api_compat.numpy as xp  # here, not above: its import takes half as long as NumPy's

        super().__init__(xp, "cpu")
        keep_freed_memory()

    def _context(self) -> AbstractContextManager[Any]:
        """Return a context without NumPy's floating-point warnings and errors, whatever the calling program has set.

        Overflow shows in the loss, and underflow to 0 is intended.
        """
        return np.errstate(all="ignore")

    def threads(self, wanted: int) -> int:
        """Return `wanted`, or if it is 0 the number of cores that this process may run on."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return wanted or cores

    def blocks(self, size: int) -> list[slice]:
        """Return slices of at most `BLOCK` elements, which fit the cache."""
        return [slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]

    def describe(self) -> str:
        """Return NumPy's version, the function in SiLU, and the BLAS libraries with their kernels and threads."""
        libraries = sorted(
            f"{pool['internal_api']} {pool['version'] or 'of unknown version'} ({_details(pool)})"
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        )
        blas = " and ".join(libraries) or "a BLAS that threadpoolctl does not know"
        return f"numpy {np.__version__} on cpu, SiLU by {silu_function()}, {blas}"


def _details(pool: dict[str, Any]) -> str:
    kernels = pool.get("architecture")
    if not kernels:
        return f"threads: {pool['num_threads']}"
    held = " as OPENBLAS_CORETYPE wants" if os.environ.get("OPENBLAS_CORETYPE") else ""
    return f"{kernels} kernels{held}, threads: {pool['num_threads']}"
