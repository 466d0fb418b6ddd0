"""NumPy on the CPU: the backend that is always there."""

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
"""Elements of a flat buffer that stay in a core's cache with those of a few others."""


class NumpyBackend(Backend):
    """NumPy arrays on the CPU. Making one has the process keep freed memory, see `keep_freed_memory`.

    Raises:
        BackendError: a device other than None or "cpu" is asked for.
    """

    name = "numpy"
    operations = "tinyddpm.ops.numpy_operations:NumpyOperations"

    def __init__(self, device: str | None = None) -> None:
        if device not in (None, "cpu"):
            raise BackendError(
                f"the numpy backend has no device {device!r}, only 'cpu': use backend cupy or torch for it"
            )
        import array_api_compat.numpy as xp  # when one is made: it takes as long to import as half of NumPy

        super().__init__(xp, "cpu")
        keep_freed_memory()

    def _context(self) -> AbstractContextManager[Any]:
        """Return a context without warnings or errors of arithmetic, whatever the program around it has set.

        Numbers that leave the finite ones show in the loss; those that become 0 are meant to.
        """
        return np.errstate(all="ignore")

    def threads(self, wanted: int) -> int:
        """Return `wanted`, or the number of cores that this process may run on if it is 0."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return wanted or cores

    def blocks(self, size: int) -> list[slice]:
        """Return slices that fit the cache."""
        return [slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]

    def describe(self) -> str:
        """Return NumPy's version, what SiLU is computed by, and the BLAS libraries with their kernels and threads."""
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
