"""Sums of arrays on GPUs by NCCL. They are launched on the computing stream, so that a step is recorded with them.

NCCL's communicator is made from an id that rank 0 draws and the group sends to the others.
"""

from __future__ import annotations

import ctypes
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tinyddpm.backend import Array, Backend
from tinyddpm.backend.cupy_backend import follow
from tinyddpm.distributed.group import Group
from tinyddpm.errors import BackendError, ConfigError

FLOAT32, BFLOAT16, SUM = 7, 9, 0
"""NCCL's numbers for these types, and for the sum."""


class NCCL:
    """The ranks' communicator. All methods but `abort` must be called within the backend's `scope()`.

    Args:
        backend: the CuPy backend.
        group: the ranks.

    Raises:
        ConfigError: NCCL is missing, or cannot join the ranks.
    """

    def __init__(self, backend: Backend, group: Group) -> None:
        self._module, self._backend, self._group = _import_nccl(), backend, group
        unique = group.gather(self._module.get_unique_id() if group.first else None)[0]
        try:
            with backend.scope():
                self._nccl = self._module.NcclCommunicator(group.size, unique, group.rank)
        except RuntimeError as error:
            raise ConfigError(
                f"NCCL cannot join the ranks ({error}): each needs a GPU of its own, and NCCL_DEBUG=WARN tells more; or"
                " give --distributed mpi"
            ) from error
        self._beside: Any = None
        self._begun: list[tuple[Array, Any]] = []
        self._halves: Any = None
        # Never destroyed: destroying it would wait for the graphs that it was recorded in.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._nccl))

    def sum_(self, flat: Array, sums: str) -> None:
        """Replace `flat`, (n,) float32, by its sum over all ranks; see `Group.sum_`."""
        sent, kind = self._sent(flat, sums)
        with self._one_launch():
            self._nccl.allReduce(sent.data.ptr, sent.data.ptr, sent.size, kind, SUM, self._stream())
        self._received(flat, sent)

    def begin_sum(self, flat: Array, part: slice, sums: str) -> None:
        """Begin to sum a part of `flat`, on a stream parallel to the computing one; see `Group.begin_sum`."""
        import cupy

        compute = cupy.cuda.get_current_stream()
        if self._beside is None:
            self._beside = cupy.cuda.Stream(non_blocking=True)
        sent, kind = flat[part], FLOAT32
        if sums == "bf16":
            if self._halves is None or self._halves.shape != flat.shape:
                self._halves, _ = self._sent(flat, sums)  # kept: a recording may reuse what is allocated within it
            sent, kind = self._halves[part], BFLOAT16
            sent[...] = flat[part]
        follow(self._beside, compute)
        with self._beside, self._one_launch():
            self._nccl.allReduce(sent.data.ptr, sent.data.ptr, sent.size, kind, SUM, self._stream())
        self._begun.append((flat[part], sent))

    def end_sums(self) -> None:
        """Make the computing stream wait for the sums that were begun."""
        import cupy

        if self._begun:
            follow(cupy.cuda.get_current_stream(), self._beside)
        for flat, sent in self._begun:
            self._received(flat, sent)
        self._begun = []

    def sum_parts(self, flat: Array, cut: Sequence[slice], sums: str) -> None:
        """Replace this rank's part of `flat`, of the parts in `cut`, by its sum over all ranks."""
        sent, kind = self._sent(flat, sums)
        with self._one_launch():
            for rank, part in enumerate(cut):  # parts may differ by one in length, which reduceScatter cannot
                here = sent[part]
                if here.size:
                    self._nccl.reduce(here.data.ptr, here.data.ptr, here.size, kind, SUM, rank, self._stream())
        own = cut[self._group.rank]
        self._received(flat[own], sent[own])

    def gather_parts(self, flat: Array, cut: Sequence[slice]) -> None:
        """Replace all parts of `flat`, given in `cut`, by those of the ranks that they belong to."""
        with self._one_launch():
            for rank, part in enumerate(cut):
                here = flat[part]
                if here.size:
                    self._nccl.broadcast(here.data.ptr, here.data.ptr, here.size, FLOAT32, rank, self._stream())

    def abort(self) -> None:
        """Abandon the device's sums, which end with undefined numbers, and refuse new ones.

        It returns only when all graphs with recorded sums are gone, which may be never.
        """
        self._nccl.abort()

    @contextmanager
    def _one_launch(self) -> Iterator[None]:
        """Launch all sums of the block as one operation.

        Raises:
            BackendError: NCCL fails.
            SumLostError: the sums were abandoned.
        """
        try:
            self._module.groupStart()
            try:
                yield
            finally:
                self._module.groupEnd()
        except RuntimeError as error:
            self._group.check()
            raise BackendError(
                f"NCCL cannot sum ({error}): NCCL_DEBUG=WARN tells more; or give --distributed mpi"
            ) from error

    def _sent(self, flat: Array, sums: str) -> tuple[Any, int]:
        """Return the array to send and NCCL's number for its type: `flat` itself, or a copy in bfloat16."""
        if sums == "fp32":
            return flat, FLOAT32
        from ml_dtypes import bfloat16

        return self._backend.xp.astype(flat, bfloat16), BFLOAT16

    def _received(self, flat: Array, sent: Any) -> None:
        """Write a sum in bfloat16 back to `flat`; a sum in float32 was made in place."""
        if sent.dtype != flat.dtype:
            flat[...] = self._backend.xp.astype(sent, flat.dtype)

    def _stream(self) -> int:
        import cupy

        return int(cupy.cuda.get_current_stream().ptr)


def _import_nccl() -> Any:
    """Return CuPy's module of NCCL.

    Raises:
        ConfigError: NCCL is not available.
    """
    with warnings.catch_warnings(record=True, action="always") as said:
        from cupy.cuda import nccl
    if not nccl.available:
        why = re.search(r"Reason: (.*)", "\n".join(str(warning.message) for warning in said))
        raise ConfigError(
            f"NCCL cannot be used{f': {why[1]}' if why else ''}: run pip install 'tinyddpm[nccl12]' or"
            " 'tinyddpm[nccl13]', or give --distributed mpi"
        )
    return nccl
