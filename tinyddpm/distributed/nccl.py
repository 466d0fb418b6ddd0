"""Sums of arrays on GPUs by NCCL, each launched on the stream that computes: so a step can be recorded with them.

NCCL's communicator is made of an id that rank 0 draws; MPI carries it to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinyddpm.backend import Array, Backend
from tinyddpm.errors import ConfigError

FLOAT32, BFLOAT16, SUM = 7, 9, 0
"""NCCL's numbers of these types, and of the sum."""


class NCCL:
    """The ranks' communicator.

    Args:
        backend: CuPy's.
        rank: this one.
        size: how many there are.
        broadcast: returns on all ranks what the first gives.

    Raises:
        ConfigError: NCCL is not there.
    """

    def __init__(self, backend: Backend, rank: int, size: int, broadcast: Callable[[Any], Any]) -> None:
        try:
            from cupy.cuda import nccl
        except ImportError as error:
            raise ConfigError(
                f"NCCL cannot be used ({error}): run pip install 'tinyddpm[nccl12]' or 'tinyddpm[nccl13]', or give"
                " --distributed mpi"
            ) from error
        self._backend, self._rank = backend, rank
        unique = broadcast(nccl.get_unique_id() if rank == 0 else None)
        with backend.scope():
            self._nccl = nccl.NcclCommunicator(size, unique, rank)

    def sum_(self, flat: Array, sums: str) -> None:
        """Put the sum over all ranks in the place of `flat`, (n,) float32; see `Group.sum_`."""
        sent, kind = self._sent(flat, sums)
        self._nccl.allReduce(sent.data.ptr, sent.data.ptr, sent.size, kind, SUM, self._stream())
        self._received(flat, sent)

    def sum_parts(self, flat: Array, cut: Sequence[slice], sums: str) -> None:
        """Put the sum over all ranks in the place of this rank's part of `flat`, of the parts in `cut`."""
        sent, kind = self._sent(flat, sums)
        for rank, part in enumerate(cut):  # parts may differ by one in length, which reduceScatter cannot
            here = sent[part]
            if here.size:
                self._nccl.reduce(here.data.ptr, here.data.ptr, here.size, kind, SUM, rank, self._stream())
        own = cut[self._rank]
        self._received(flat[own], sent[own])

    def gather_parts(self, flat: Array, cut: Sequence[slice]) -> None:
        """Put each rank's part of `flat`, of those in `cut`, in its place on all ranks."""
        for rank, part in enumerate(cut):
            here = flat[part]
            if here.size:
                self._nccl.bcast(here.data.ptr, here.size, FLOAT32, rank, self._stream())

    def abort(self) -> None:
        """Give up what waits for ranks that are lost."""
        self._nccl.abort()

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
