"""A stand-in for CuPy's NCCL: sums over real ranks by MPI, in the order of ranks.

As on a GPU, calls during the recording of a graph are carried out when it is replayed, and a sum that other ranks do
not join waits until it is aborted. Different sums on different ranks, which hang or give wrong results there, are an
error here.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pytest
from ml_dtypes import bfloat16

from helpers.cuda_tape import TAPE
from helpers.cupy_stand_in import Stream

available = True

TYPES: dict[int, Any] = {7: np.dtype(np.float32), 9: np.dtype(bfloat16)}
SUM = 0

LAUNCHED: list[str] = []
"""Launched sums, in order; those of a graph's recording begin with "recorded"."""

deaf = False
"""Whether aborted sums go on waiting, as on a device that no longer responds."""


class NcclError(RuntimeError):
    """As CuPy's."""


class _Call(NamedTuple):
    """A call: the memory to send and to write to; `root` is the only rank that writes, or sends."""

    name: str
    sent: int
    got: int
    count: int
    kind: int
    root: int | None


class _Grouped:
    """The calls since the outermost `groupStart`."""

    depth = 0
    calls: list[_Call]
    launch: Callable[[list[_Call]], None]


def get_unique_id() -> bytes:
    return os.urandom(128)


def groupStart() -> None:  # noqa: N802 - NCCL's name
    if not _Grouped.depth:
        _Grouped.calls = []
    _Grouped.depth += 1


def groupEnd() -> None:  # noqa: N802 - NCCL's name
    _Grouped.depth -= 1
    if not _Grouped.depth and _Grouped.calls:
        calls, launch = _Grouped.calls, _Grouped.launch
        LAUNCHED.append(f"{'recorded ' if TAPE.active else ''}{len(calls)} {calls[0].name}")
        TAPE.do(lambda: launch(calls))


class NcclCommunicator:
    """A stand-in for CuPy's NcclCommunicator, which all ranks make at the same time."""

    def __init__(self, ndev: int, commId: bytes, rank: int) -> None:
        from mpi4py import MPI

        assert len(Stream.current) > 1, "a communicator is of the device that is current"
        self._comm = MPI.COMM_WORLD.Dup()
        assert (ndev, rank) == (self._comm.size, self._comm.rank)
        assert isinstance(commId, bytes)
        assert len(commId) == 128
        assert set(self._comm.allgather(commId)) == {commId}
        self._aborted, self._recorded = False, False
        self._kept: list[Any] = []
        self._streams: set[Stream] = set()

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:  # noqa: N802
        assert op == SUM
        self._ask(_Call("allReduce", sendbuf, recvbuf, count, datatype, None), stream)

    def reduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, root: int, stream: int) -> None:
        assert op == SUM
        self._ask(_Call("reduce", sendbuf, recvbuf, count, datatype, root), stream)

    def broadcast(self, sendbuff: int, recvbuff: int, count: int, datatype: int, root: int, stream: int) -> None:
        self._ask(_Call("broadcast", sendbuff, recvbuff, count, datatype, root), stream)

    def abort(self) -> None:
        """Abort all sums; as NCCL does, wait for the end of graphs with recorded sums."""
        self._aborted = not deaf
        while self._recorded:
            time.sleep(1)

    def _ask(self, call: _Call, stream: int) -> None:
        if self._aborted:
            raise NcclError("NCCL_ERROR_INVALID_ARGUMENT: invalid argument")
        assert len(Stream.current) > 1, "the stream is not that of the backend"
        before, here = Stream.current[-2:]
        assert stream == here.ptr
        if here.non_blocking:  # beside the one that computes, all of whose work it must wait for
            assert here.seen[before.ptr][1] == len(TAPE.launches)
        else:
            assert all(other.sums == here.seen[other.ptr][0] for other in self._streams - {here})
        self._streams.add(here)
        here.sums += 1
        assert call.count > 0
        groupStart()
        _Grouped.calls.append(call)
        _Grouped.launch = self._launch
        self._recorded |= TAPE.active
        groupEnd()

    def _launch(self, calls: list[_Call]) -> None:
        """Carry out the calls, until they are aborted."""
        asked = [(call.name, call.count, call.kind, call.root, self._recorded) for call in calls]
        told = self._gathered(np.frombuffer(repr(asked).encode().ljust(8000), np.uint8))
        if told is None:
            return
        assert len({row.tobytes() for row in told}) == 1, [row.tobytes().rstrip() for row in told]
        for call in calls:
            kind = TYPES[call.kind]
            rows = self._gathered(_memory(call.sent, call.count * kind.itemsize))
            if rows is None:
                return
            values = rows.view(kind)
            if call.name == "broadcast":
                found = values[call.root]
            elif call.root in (None, self._comm.rank):
                found = reduce(np.add, values)
            else:
                continue
            _memory(call.got, call.count * kind.itemsize).view(kind)[...] = found

    def _gathered(self, mine: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
        """Return the bytes of all ranks, a row each; None if the sum is aborted before all have joined."""
        rows = np.empty((self._comm.size, mine.size), np.uint8)
        request = self._comm.Iallgather(mine, rows)
        while not request.Test():
            if self._aborted:
                self._kept += [mine, rows, request]  # MPI may still write there
                return None
            time.sleep(2e-5)
        return rows


def _memory(at: int, size: int) -> np.ndarray[Any, Any]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(at))


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `from cupy.cuda import nccl` find this module in the stand-in for CuPy. Each rank has a card of its own."""
    cuda = sys.modules["cupy"].cuda
    cuda.nccl = sys.modules[__name__]
    cuda.runtime.getDeviceCount = lambda: 8
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    LAUNCHED.clear()
