"""Sums of arrays on GPUs by NCCL, each launched on the stream that computes: so a step can be recorded with them.

NCCL's communicator is made of an id that rank 0 draws and the group carries to the others.
"""

from __future__ import annotations

import ctypes
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tinyddpm.backend import Array, Backend
from tinyddpm.distributed.group import Group
from tinyddpm.errors import BackendError, ConfigError

FLOAT32, BFLOAT16, SUM = 7, 9, 0
"""NCCL's numbers of these types, and of the sum."""


class NCCL:
    """The ranks' communicator. Sums and the like are called within the backend's `scope()`.

    Args:
        backend: CuPy's.
        group: the ranks.

    Raises:
        ConfigError: NCCL is not there, or cannot join the ranks.
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
        # It ends with the process: its end would wait for that of the graphs that it was recorded in.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._nccl))

    def sum_(self, flat: Array, sums: str) -> None:
        """Put the sum over all ranks in the place of `flat`, (n,) float32; see `Group.sum_`."""
        sent, kind = self._sent(flat, sums)
        with self._one_launch():
            self._nccl.allReduce(sent.data.ptr, sent.data.ptr, sent.size, kind, SUM, self._stream())
        self._received(flat, sent)

    def begin_sum(self, flat: Array, part: slice, sums: str) -> None:
        """Begin to sum a part of `flat`, on a stream beside the one that computes; see `Group.begin_sum`."""
        import cupy

        compute = cupy.cuda.get_current_stream()
        if self._beside is None:
            self._beside = cupy.cuda.Stream(non_blocking=True)
        sent, kind = flat[part], FLOAT32
        if sums == "bf16":
            if self._halves is None or self._halves.shape != flat.shape:
                self._halves, _ = self._sent(flat, sums)  # of its own: what a recording allocates may be used again
            sent, kind = self._halves[part], BFLOAT16
            sent[...] = flat[part]
        self._follow(self._beside, compute)
        with self._beside, self._one_launch():
            self._nccl.allReduce(sent.data.ptr, sent.data.ptr, sent.size, kind, SUM, self._stream())
        self._begun.append((flat[part], sent))

    def end_sums(self) -> None:
        """Have the stream that computes wait for the sums that were begun."""
        import cupy

        if self._begun:
            self._follow(cupy.cuda.get_current_stream(), self._beside)
        for flat, sent in self._begun:
            self._received(flat, sent)
        self._begun = []

    def sum_parts(self, flat: Array, cut: Sequence[slice], sums: str) -> None:
        """Put the sum over all ranks in the place of this rank's part of `flat`, of the parts in `cut`."""
        sent, kind = self._sent(flat, sums)
        with self._one_launch():
            for rank, part in enumerate(cut):  # parts may differ by one in length, which reduceScatter cannot
                here = sent[part]
                if here.size:
                    self._nccl.reduce(here.data.ptr, here.data.ptr, here.size, kind, SUM, rank, self._stream())
        own = cut[self._group.rank]
        self._received(flat[own], sent[own])

    def gather_parts(self, flat: Array, cut: Sequence[slice]) -> None:
        """Put each rank's part of `flat`, of those in `cut`, in its place on all ranks."""
        with self._one_launch():
            for rank, part in enumerate(cut):
                here = flat[part]
                if here.size:
                    self._nccl.broadcast(here.data.ptr, here.data.ptr, here.size, FLOAT32, rank, self._stream())

    def abort(self) -> None:
        """Have the device give up its sums, which end with any numbers, and take no more.

        This returns when all graphs that sums were recorded in are gone, if ever.
        """
        self._nccl.abort()

    def _follow(self, later: Any, earlier: Any) -> None:
        """Have a stream wait for what another has been asked for; where that is recorded, both are."""
        import cupy

        event = cupy.cuda.Event(disable_timing=True)
        event.record(earlier)
        later.wait_event(event)

    @contextmanager
    def _one_launch(self) -> Iterator[None]:
        """Launch what the block asks for as one.

        Raises:
            BackendError: NCCL refuses.
            SumLostError: sums were given up.
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
        """Return the array that is sent, with NCCL's number of its type: `flat` itself, or rounded to bfloat16."""
        if sums == "fp32":
            return flat, FLOAT32
        from ml_dtypes import bfloat16

        return self._backend.xp.astype(flat, bfloat16), BFLOAT16

    def _received(self, flat: Array, sent: Any) -> None:
        """Write what has been summed into its place, unless it was summed there."""
        if sent.dtype != flat.dtype:
            flat[...] = self._backend.xp.astype(sent, flat.dtype)

    def _stream(self) -> int:
        import cupy

        return int(cupy.cuda.get_current_stream().ptr)


def _import_nccl() -> Any:
    """Return CuPy's NCCL.

    Raises:
        ConfigError: there is none.
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
