"""The link that carries arrays between the ranks' hosts: MPI, or gloo of Torch.

Every method begins an exchange and returns the test of whether it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

HostArray = np.ndarray[Any, Any]

Done = Callable[[], bool]
"""Whether an exchange has ended. Its arrays are not touched before."""


class Link(Protocol):
    """The ranks that a launcher started. Every method is called by all of them, in the same order.

    Attributes:
        rank: this rank, from 0 on.
        size: number of ranks.
    """

    rank: int
    size: int

    def sum_(self, host: HostArray) -> Done:
        """Begin to replace `host`, (n,) float32, by its sum over all ranks. All ranks get the same bits."""

    def exchange(self, sent: HostArray, sends: Sequence[int], got: HostArray, gets: Sequence[int]) -> Done:
        """Begin to send consecutive pieces of an array, one to each rank, and to receive one from each.

        Args:
            sent: one-dimensional, of the same type on all ranks.
            sends: length of the piece for each rank.
            got: where the pieces are written, in the order of ranks.
            gets: length of the piece from each rank.
        """

    def gather(self, sent: HostArray, got: HostArray, gets: Sequence[int]) -> Done:
        """Begin to write the arrays of all ranks, one-dimensional and of lengths `gets`, end to end into `got`."""

    def broadcast(self, host: HostArray) -> Done:
        """Begin to replace `host`, of one shape and type on all ranks, by that of rank 0."""

    def meet(self) -> Done:
        """Begin to wait for all ranks. Exchanges that were left half done do not disturb it."""

    def end(self) -> None:
        """Part from the other ranks, after `meet`."""
