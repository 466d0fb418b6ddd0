"""MPI (mpi4py) as the link between ranks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyddpm.distributed.launch import Launch
from tinyddpm.distributed.link import Done, HostArray
from tinyddpm.errors import ConfigError


class MPILink:
    """The ranks of MPI's world; see `Link`.

    Args:
        launch: the launcher's description of this process.

    Raises:
        ConfigError: mpi4py is missing, or MPI sees other ranks than were launched.
    """

    def __init__(self, launch: Launch) -> None:
        self._mpi = _import_mpi()
        self._world = self._mpi.COMM_WORLD
        self.rank, self.size = self._world.rank, self._world.size
        if self.size == 1 or self.size != launch.size:
            library = " ".join(self._mpi.Get_library_version().partition("\n")[0].strip("\0 ").split())
            raise ConfigError(
                f"{launch.by or 'no launcher'} started {launch.size} ranks, and MPI sees {self.size}: start them by the"
                f" mpiexec of the MPI that mpi4py uses ({library}), or give --distributed none"
            )
        self._apart = self._world.Dup()

    def sum_(self, host: HostArray) -> Done:
        """See `Link.sum_`."""
        return self._begun(self._world.Iallreduce(self._mpi.IN_PLACE, host))

    def exchange(self, sent: HostArray, sends: Sequence[int], got: HostArray, gets: Sequence[int]) -> Done:
        """See `Link.exchange`."""
        return self._begun(self._world.Ialltoallv(_pieces(sent, sends), _pieces(got, gets)))

    def gather(self, sent: HostArray, got: HostArray, gets: Sequence[int]) -> Done:
        """See `Link.gather`."""
        return self._begun(self._world.Iallgatherv([sent, len(sent), sent.dtype.char], _pieces(got, gets)))

    def broadcast(self, host: HostArray) -> Done:
        """See `Link.broadcast`."""
        return self._begun(self._world.Ibcast(host))

    def meet(self) -> Done:
        """See `Link.meet`."""
        return self._begun(self._apart.Ibarrier())

    def end(self) -> None:
        """See `Link.end`."""
        self._mpi.Finalize()

    def _begun(self, request: Any) -> Done:
        test: Done = request.Test
        return test


def _pieces(array: HostArray, lengths: Sequence[int]) -> list[Any]:
    """Return MPI's description of consecutive pieces of an array: lengths, starts and type."""
    starts = np.cumsum([0, *lengths[:-1]])
    return [array, (lengths, starts), array.dtype.char]


def _import_mpi() -> Any:
    """Return mpi4py's MPI, which only `end` finalizes: at a process's exit it would wait for ranks that have died.

    Raises:
        ConfigError: mpi4py is not installed, or its library is missing.
    """
    try:
        import mpi4py

        mpi4py.rc.finalize = False
        # It warns if the launcher belongs to another MPI; `MPILink` raises an error for that.
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"ranks need MPI ({reason}): run pip install 'tinyddpm[mpi]', or give --distributed none"
        ) from error
    return MPI
