"""The operations of a group of ranks; for a single rank they cost nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any, TypeVar

from tinyddpm.backend import Array, Backend, load_backend
from tinyddpm.backend.workers import parts
from tinyddpm.errors import ConfigError

T = TypeVar("T")


class Group:
    """A group of a single rank, and the base of groups of several.

    All ranks must call the methods that wait for others, in the same order. Arrays to sum or gather are those of the
    backend that `load_backend` returned, or host arrays before.

    Attributes:
        rank: the number of this rank, from 0 on. Rank 0 writes files and messages.
        size: number of ranks.
        recordable: whether sums only launch work on the device, so that a backend can record them.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.recordable = rank, size, True

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes files and messages."""
        return self.rank == 0

    @property
    def speaks(self) -> bool:
        """Whether this rank reports an error: it is the first of those that are not lost."""
        return True

    def load_backend(
        self, name: str, device: str | None = None, precision: str = "fp32", graph: bool = True
    ) -> Backend:
        """Return the backend of these options, see `tinyddpm.backend.load_backend`; arrays to sum are its from now on.

        If the device is None or "cuda", without a number, each rank of a machine takes a GPU of its own.
        """
        return load_backend(name, device, precision, graph)

    def sum_(self, flat: Array, sums: str = "fp32") -> None:
        """Replace `flat` by its sum over all ranks.

        Args:
            flat: (n,) float32.
            sums: type of the numbers sent: "fp32", or "bf16" for half as many bytes, numbers and sums rounded to it.
        """

    def begin_sum(self, flat: Array, part: slice, sums: str = "fp32") -> None:
        """Begin to replace a part of `flat` by its sum, if sums are recordable: see `sum_` and `end_sums`."""

    def end_sums(self) -> None:
        """Make all work launched from now on wait for the sums that were begun."""

    def sum_part(self, flat: Array, sums: str = "fp32") -> None:
        """Replace this rank's part of `flat`, of `parts(n)`, by its sum over all ranks; the rest is undefined.

        Args:
            flat: (n,) float32.
            sums: see `sum_`.
        """

    def gather_parts(self, flat: Array) -> None:
        """Replace all parts of `flat`, (n,) float32, of `parts(n)`, by those of the ranks that they belong to."""

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in the order of ranks; any value that can be pickled."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Return rank 0's value."""
        return value

    def most(self, value: int) -> int:
        """Return the largest of the ranks' values."""
        return value

    def total(self, value: float) -> float:
        """Return the sum of the ranks' values, added in the order of ranks."""
        return sum(self.gather(value))

    def barrier(self) -> None:
        """Wait until all ranks have called this method."""
        self.most(0)

    def cores(self) -> int:
        """Return this rank's number of cores: those that it may run on, divided among all ranks that may use them."""
        own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
        here = platform.node(), own
        return max(1, len(own) // self.gather(here).count(here))

    def parts(self, n: int) -> list[slice]:
        """Return the ranks' parts of n things, equal up to one; if n is less than `size`, the last ones are empty."""
        found = parts(n, self.size) if n else []
        return found + [slice(n, n)] * (self.size - len(found))

    def check(self) -> None:
        """Check that the sums on the device are complete.

        Raises:
            SumLostError: a rank is lost and the sums were abandoned.
        """

    def same(self, what: Mapping[str, Any]) -> None:
        """Check that all ranks have the same values.

        Args:
            what: the values by their names in the message.

        Raises:
            ConfigError: a rank has another value than rank 0.
        """
        first, *others = self.gather(dict(what))
        for rank, found in enumerate(others, 1):
            for name, value in first.items():
                if found.get(name) != value:
                    how = _difference(value, found.get(name))
                    raise ConfigError(f"rank {rank} has other {name} than rank 0 ({how}): start all ranks alike")

    def leave(self, failure: str | None = None) -> None:
        """Wait for the other ranks and leave the group; `failure` is the error that ends this rank, if any."""


ALONE = Group()
"""The group of a process that shares its work with no other."""


def _difference(first: Any, other: Any) -> str:
    """Return a short text of the first difference between two values, such as "network.channels 64 instead of 32"."""
    if isinstance(first, Mapping) and isinstance(other, Mapping):
        for name in sorted({*first, *other}, key=str):
            if first.get(name) != other.get(name):
                inner = _difference(first.get(name), other.get(name))
                return f"{name}.{inner}" if isinstance(first.get(name), Mapping) else f"{name} {inner}"
    return f"{str(other)[:40]!s} instead of {str(first)[:40]!s}"
