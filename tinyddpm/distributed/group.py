"""What ranks do together; a rank that is alone does it at no cost."""

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
    """A rank that is alone, and what all groups of ranks do.

    Whatever waits for others is called by all ranks, in the same order. Arrays that are summed or gathered are those of
    the backend that the group has loaded, or of the host before.

    Attributes:
        rank: which one this is, from 0 on. The first one writes and speaks.
        size: how many there are.
        recordable: whether sums only launch work on the device, so that a backend can record them.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.recordable = rank, size, True

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes and speaks."""
        return self.rank == 0

    @property
    def speaks(self) -> bool:
        """Whether this rank says what went wrong: the first of those that are left."""
        return True

    def load_backend(
        self, name: str, device: str | None = None, precision: str = "fp32", graph: bool = True
    ) -> Backend:
        """Return the backend of these options, see `tinyddpm.backend.load_backend`; its arrays are summed from now on.

        Where no GPU is named but by "cuda", each rank of a machine takes one of its own.
        """
        return load_backend(name, device, precision, graph)

    def sum_(self, flat: Array, sums: str = "fp32") -> None:
        """Put the sum over all ranks in the place of `flat`.

        Args:
            flat: (n,) float32.
            sums: what is sent: "fp32", or "bf16" for half as many bytes, each number and each sum rounded to bfloat16.
        """

    def begin_sum(self, flat: Array, part: slice, sums: str = "fp32") -> None:
        """Begin to sum a part of `flat`, while other work is launched; see `sum_`. All that was begun is there, in its
        place, for what is launched after `end_sums`.
        """
        self.sum_(flat[part], sums)

    def end_sums(self) -> None:
        """Have what is launched from now on see the sums that were begun."""

    def sum_part(self, flat: Array, sums: str = "fp32") -> None:
        """Put the sum over all ranks in the place of this rank's part of `flat`, of `parts(n)`; the rest is not set.

        Args:
            flat: (n,) float32.
            sums: as of `sum_`.
        """

    def gather_parts(self, flat: Array) -> None:
        """Put each rank's part of `flat`, (n,) float32, of `parts(n)`, in its place on all ranks."""

    def gather(self, value: T) -> list[T]:
        """Return what each rank gives, in the order of ranks: anything that one process can hand to its like."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Return what the first rank gives."""
        return value

    def most(self, value: int) -> int:
        """Return the largest number that a rank gives."""
        return value

    def total(self, value: float) -> float:
        """Return the sum of what all ranks give, added in their order."""
        return sum(self.gather(value))

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.most(0)

    def cores(self) -> int:
        """Return how many cores fall to this rank: those that it may run on, cut among all ranks that may."""
        own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
        here = platform.node(), own
        return max(1, len(own) // self.gather(here).count(here))

    def parts(self, n: int) -> list[slice]:
        """Return each rank's part of n things, as equal as can be; those of the last ranks are empty if n is less."""
        found = parts(n, self.size) if n else []
        return found + [slice(n, n)] * (self.size - len(found))

    def check(self) -> None:
        """See to it that what was summed on the device was summed to the end.

        Raises:
            SumLostError: it was not, as a rank is lost.
        """

    def same(self, what: Mapping[str, Any]) -> None:
        """Refuse ranks that differ.

        Args:
            what: they must have in common, by what it is called.

        Raises:
            ConfigError: a rank has something else than the first.
        """
        first, *others = self.gather(dict(what))
        for rank, found in enumerate(others, 1):
            for name, value in first.items():
                if found.get(name) != value:
                    how = _difference(value, found.get(name))
                    raise ConfigError(f"rank {rank} has other {name} than rank 0 ({how}): start all ranks alike")

    def leave(self, failure: str | None = None) -> None:
        """Part from the others, when all are there; `failure` is what they are told where this rank gives up."""


ALONE = Group()
"""The group of a process that shares its work with no other."""


def _difference(first: Any, other: Any) -> str:
    """Return the first thing in which two values differ, in as few words as it takes."""
    if isinstance(first, Mapping) and isinstance(other, Mapping):
        for name in sorted({*first, *other}, key=str):
            if first.get(name) != other.get(name):
                inner = _difference(first.get(name), other.get(name))
                return f"{name}.{inner}" if isinstance(first.get(name), Mapping) else f"{name} {inner}"
    return f"{str(other)[:40]!s} instead of {str(first)[:40]!s}"
