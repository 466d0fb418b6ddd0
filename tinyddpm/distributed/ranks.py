"""Ranks that share a run: sums and exchanges of arrays on the host, and an orderly end if one of them is lost.

All exchanges are non-blocking and tested until they are complete, so that the wait for a dead rank can be ended.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from tinyddpm.backend import Array, Backend
from tinyddpm.distributed.group import Group
from tinyddpm.distributed.launch import Launch, own_gpu
from tinyddpm.distributed.link import Done, HostArray, Link
from tinyddpm.distributed.watch import BEAT, Door, Watch, connect, place
from tinyddpm.errors import BackendError, ConfigError, SumLostError

if TYPE_CHECKING:
    from tinyddpm.distributed.nccl import NCCL

T = TypeVar("T")

TESTS = 2000
"""Number of tests of an exchange without a pause between them."""

PAUSE = 50e-6
"""Seconds between two tests after that."""

GRACE = 0.5
"""Seconds that an exchange is still tested after a rank has given up: what all had joined then still completes."""

START, EACH = 20.0, 0.25
"""Longest time in seconds for the ranks to find each other, and to leave their link: in all, and more for each rank."""

TELL = "import sys; sys.stdin.read(1) and sys.exit(sys.argv[1])"
"""A program that says its argument when it is sent something, and nothing when its input is closed."""

PARTING = 0.01
"""Seconds between two tests of whether all ranks have reached their end."""


class Ranks(Group):
    """The ranks that a launcher started.

    Args:
        launch: the launcher's description of this process.
        link: function that joins the ranks and returns the link between them.
        nccl: whether NCCL sums CuPy's arrays. None also allows backends other than CuPy's.

    Raises:
        ConfigError: the ranks cannot join.
    """

    def __init__(self, launch: Launch, link: Callable[[Launch], Link], nccl: bool | None = None) -> None:
        with _in_time(launch):
            self._link = link(launch)
            super().__init__(self._link.rank, self._link.size)
            self.recordable = False
            self._launch, self._wanted = launch, nccl
            self._parting: Done | None = None
            self._watch: Watch | None = None
            self._backend: Backend | None = None
            self._nccl: NCCL | None = None
            self._watch = self._watched()

    def load_backend(
        self, name: str, device: str | None = None, precision: str = "fp32", graph: bool = True
    ) -> Backend:
        """Return the backend of these options; arrays to sum are its from now on. CuPy's arrays are summed by NCCL.

        Raises:
            ConfigError: the group's kind is "nccl" and the backend is not CuPy's, or NCCL is missing.
        """
        on_gpu = name == "cupy" or (name == "torch" and device == "cuda")
        if on_gpu and device in (None, "cuda"):
            device = f"cuda:{own_gpu(self._launch)}"
        threadpool_limits(self.cores())  # the BLAS would also use the cores of the other ranks
        self._backend = super().load_backend(name, device, precision, graph)
        if name == "cupy" and self._wanted is not False:
            from tinyddpm.distributed.nccl import NCCL

            assert self._watch is not None
            self._nccl = NCCL(self._backend, self)
            self._watch.wake = self._nccl.abort
            self.recordable = True
        elif self._wanted:
            raise ConfigError(f"--distributed nccl is for GPUs, and backend {name!r} is not: use --backend cupy")
        return self._backend

    def sum_(self, flat: Array, sums: str = "fp32") -> None:
        """Replace `flat` by its sum over all ranks. Numbers sent in bfloat16 are added in float32."""
        if self._nccl:
            self._nccl.sum_(flat, sums)
        elif sums == "fp32":
            host = self._host(flat)
            self._wait(self._link.sum_(host))
            if not np.may_share_memory(self._host(flat[:1]), host):
                self._device(flat, host)
        else:
            self.sum_part(flat, sums)
            self._gather_parts(flat, sums)

    def begin_sum(self, flat: Array, part: slice, sums: str = "fp32") -> None:
        """Begin to replace a part of `flat` by its sum, parallel to computations."""
        assert self._nccl
        self._nccl.begin_sum(flat, part, sums)

    def end_sums(self) -> None:
        """Make all work launched from now on wait for the sums that were begun."""
        assert self._nccl
        self._nccl.end_sums()

    def sum_part(self, flat: Array, sums: str = "fp32") -> None:
        """Replace this rank's part of `flat` by its sum over all ranks, added in their order and in float32."""
        cut = self.parts(flat.shape[0])
        if self._nccl:
            self._nccl.sum_parts(flat, cut, sums)
            return
        mine = cut[self.rank]
        sent = _packed(self._host(flat), sums)
        got = np.empty((self.size, mine.stop - mine.start), sent.dtype)
        lengths = [part.stop - part.start for part in cut]
        self._wait(self._link.exchange(sent, lengths, got.reshape(-1), [got.shape[1]] * self.size))
        total = np.array(_unpacked(got[0]))
        for other in got[1:]:
            total += _unpacked(other)
        self._device(flat[mine], total)

    def gather_parts(self, flat: Array) -> None:
        """Replace all parts of `flat` by those of the ranks that they belong to."""
        if self._nccl:
            self._nccl.gather_parts(flat, self.parts(flat.shape[0]))
        else:
            self._gather_parts(flat, "fp32")

    def _gather_parts(self, flat: Array, sums: str) -> None:
        cut = self.parts(flat.shape[0])
        sent = _packed(self._host(flat)[cut[self.rank]], sums)
        got = np.empty(flat.shape[0], sent.dtype)
        self._wait(self._link.gather(sent, got, [part.stop - part.start for part in cut]))
        self._device(flat, _unpacked(got))

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in the order of ranks."""
        mine = np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), np.uint8)
        lengths = self._numbers(len(mine)).tolist()
        starts = np.cumsum([0, *lengths[:-1]])
        got = np.empty(sum(lengths), np.uint8)
        self._wait(self._link.gather(mine, got, lengths))
        return [
            value if rank == self.rank else pickle.loads(got[start : start + length].data)
            for rank, (start, length) in enumerate(zip(starts, lengths, strict=True))
        ]

    def broadcast(self, value: T) -> T:
        """Return rank 0's value."""
        mine = np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL) if self.first else b"", np.uint8)
        length = np.array([len(mine)])
        self._wait(self._link.broadcast(length))
        got = mine.copy() if self.first else np.empty(length[0], np.uint8)
        self._wait(self._link.broadcast(got))
        return value if self.first else pickle.loads(got.data)

    def check(self) -> None:
        """Check that the sums on the device are complete.

        Raises:
            SumLostError: a rank is lost and the sums were abandoned.
        """
        assert self._watch is not None
        if self._watch.woken:
            self._watch.check(SumLostError)

    def most(self, value: int) -> int:
        """Return the largest of the ranks' values."""
        return int(self._numbers(value).max())

    def _numbers(self, value: int) -> HostArray:
        """Return the number that each rank gives, (size,) int64."""
        found = np.empty(self.size, np.int64)
        self._wait(self._link.gather(np.array([value], np.int64), found, [1] * self.size))
        return found

    @property
    def speaks(self) -> bool:
        """Whether this is the first of the ranks that are not lost."""
        return self._watch.speaks if self._watch else self.first

    def leave(self, failure: str | None = None) -> None:
        """Wait for the other ranks, then leave them and the link. If a rank is lost, end the process here.

        Raises:
            RankError: another rank is lost or has given up, and this rank did not know of it.
        """
        watch = self._watch
        assert watch is not None
        if failure:
            watch.give_up(failure)
        together = False
        while not together:  # no use of the link once a rank is known to be lost: it may wait for that rank
            if not watch.noticed:
                watch.check()
            elif watch.lost:
                self._end()
            self._parting = self._parting or self._link.meet()
            try:
                together = self._parting()
            except BackendError:
                self._end()
            time.sleep(0 if together else PARTING)
        watch.leave()
        if watch.failure:  # the link would print messages about pending exchanges
            sys.stderr.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with _in_time(self._launch):
            self._link.end()
        if watch.failure and self._nccl:  # a normal exit would wait for the device's work, which may never end
            sys.stdout.flush()
            os._exit(1)

    def _end(self) -> None:
        """End the process without the link, which would wait for the lost ranks.

        The rank that reports the error ends first: some launchers kill all ranks as soon as one ends with an error.
        """
        watch = self._watch
        assert watch is not None
        if 0 in watch.lost and not watch.speaks:
            time.sleep(2 * BEAT)
        while not watch.speaks and not {0} & (watch.left | watch.lost):
            time.sleep(PARTING)
        watch.leave()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _wait(self, done: Done) -> None:
        """Test an exchange until it is complete.

        Raises:
            RankError: a rank is lost or has given up.
        """
        tests, heard = 0, 0.0
        while not done():
            tests += 1
            if self._watch and self._watch.failure:
                heard = heard or time.monotonic()
                # A request that all ranks had joined before one gave up still completes.
                if self._watch.lost or time.monotonic() - heard > GRACE:
                    self._watch.check()
            if tests > TESTS:
                time.sleep(PAUSE)

    def _host(self, flat: Array) -> HostArray:
        """Return a flat array on the host, without a copy if it is there already."""
        return flat if self._backend is None else self._backend.to_numpy(flat)

    def _device(self, flat: Array, host: HostArray) -> None:
        """Write host values into a flat array."""
        if self._backend is None:
            flat[...] = host
        else:
            self._backend.upload(flat, host)

    def _watched(self) -> Watch:
        """Return the watch of these ranks, after they have exchanged host, port and key by the link and connected."""
        places, hosts = zip(*self.gather((place(), platform.node())), strict=True)
        near, key = len(set(hosts)) == 1, self.broadcast(os.urandom(32))
        door = Door("localhost" if near else "", self.size - 1, key) if self.first else None
        address = "localhost" if near else hosts[0], self.broadcast(door.port if door else 0)
        trouble, found = "", {}
        try:
            if not door:
                found = {0: connect(address, self.rank, key)}
        except (OSError, EOFError, AuthenticationError) as error:
            trouble = (
                f"rank {self.rank} ({places[self.rank]}) cannot reach rank 0 at {address[0]}:{address[1]}: {error}"
            )
        for line in self.gather(trouble):
            if line:
                raise ConfigError(f"{line}; let these machines connect to each other")
        return Watch(self.rank, places, door.all() if door else found)


def _packed(host: HostArray, sums: str) -> HostArray:
    """Return the array to send: float32, or the bits of bfloat16, ties to even."""
    if sums == "fp32":
        return np.ascontiguousarray(host)
    from ml_dtypes import bfloat16

    with np.errstate(invalid="ignore"):  # NaN shows in the loss
        return host.astype(bfloat16).view(np.uint16)


def _unpacked(sent: HostArray) -> HostArray:
    """Return the numbers that were sent, as float32."""
    if sent.dtype == np.float32:
        return sent
    from ml_dtypes import bfloat16

    found: HostArray = sent.view(bfloat16).astype(np.float32)
    return found


@contextmanager
def _in_time(launch: Launch) -> Iterator[None]:
    """End the process with a line if a block takes longer than `START`, as when a rank cannot join the others.

    MPI would wait for ever, with the GIL held, and neither a thread nor a signal of Python's can end that. The thread
    of faulthandler can: it ends this process, and its report lets another one say the line. Ctrl-C ends it too.
    """
    # Rank 0 says it, or if that is the lost one, rank 1. A launcher may end the others as soon as one has ended.
    seconds = START + EACH * launch.size + (launch.rank > 0)
    whom = f"rank {1 - launch.rank}" if launch.size == 2 else f"one of the other {launch.size - 1} ranks"
    line = (
        f"Error: rank {launch.rank} ({place()}) has waited {seconds:.0f} s for {whom}, which has failed,"
        " hangs or cannot be reached: see what it said, and start all ranks anew"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", TELL, line],
        stdin=subprocess.PIPE,
        stderr=None if launch.rank < 2 else subprocess.DEVNULL,
        start_new_session=True,
    ) as teller:
        assert teller.stdin is not None
        handler = signal.getsignal(signal.SIGINT)
        mortal = handler is signal.default_int_handler and threading.current_thread() is threading.main_thread()
        faulthandler.dump_traceback_later(seconds, exit=True, file=teller.stdin)
        try:
            if mortal:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            if mortal:
                signal.signal(signal.SIGINT, handler)
