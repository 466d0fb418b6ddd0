"""How a command shares its work with ranks that a launcher has started with it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinyddpm.cli.options import option
from tinyddpm.cli.output import line_of, say
from tinyddpm.distributed.join import KINDS, join
from tinyddpm.distributed.launch import launched
from tinyddpm.errors import RankError

if TYPE_CHECKING:
    from tinyddpm.distributed.group import Group

F = TypeVar("F", bound=Callable[..., Any])


def shared(function: F) -> F:
    """Have a command do its work with the ranks that were launched together, as its argument `group`.

    It gets the option `--distributed`, which says what they speak by.
    """

    @wraps(function)
    def command(*given: Any, distributed: str, **options: Any) -> Any:
        with ranks(distributed) as group:
            return function(*given, group=group, **options)

    return option(
        "--distributed",
        type=click.Choice(KINDS),
        default="auto",
        show_default=True,
        help="What ranks of mpiexec, srun or torchrun communicate by; auto: NCCL between GPUs, else MPI or Torch.",
        group="Ranks",
    )(command)  # type: ignore[return-value]


@contextmanager
def ranks(kind: str) -> Iterator[Group]:
    """Join the ranks that were launched together, do the block with them, and part.

    The first one speaks; whatever ends one ends all, and is told by the first.

    Args:
        kind: what they speak by, one of `tinyddpm.distributed.join.KINDS`.

    Raises:
        ConfigError: there is no such kind, its library is missing, or the ranks do not see each other.
    """
    from tinyddpm.distributed.group import ALONE

    launch = launched()
    if launch.rank and kind != "none":
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    group = ALONE
    try:
        group = join(kind, launch)
        try:
            yield group
        except SystemExit:  # at the same place in all ranks
            group.leave()
            raise
        group.leave()
    except SystemExit:
        raise
    except BaseException as error:
        if group is ALONE and (kind == "none" or not launch.rank):
            raise
        _give_up(group, error)


def _give_up(group: Group, error: BaseException) -> None:
    """Say why this rank ends, if it speaks, tell the others, and end it."""
    from tinyddpm.distributed.group import ALONE
    from tinyddpm.distributed.watch import place

    line = "interrupted" if isinstance(error, KeyboardInterrupt) else line_of(error)
    launch = launched()
    # What keeps the first rank of a machine from joining need not be so on that of rank 0.
    where = f"rank {launch.rank} ({place()}): " if group is ALONE else ""
    with suppress(OSError, ValueError):
        if line is None:
            traceback.print_exception(error, file=sys.__stderr__)
        elif group.speaks if group is not ALONE else not launch.local_rank:
            sys.stderr = sys.__stderr__  # which was closed to all but the first rank
            say(f"Error: {where}{line}", err=True)
    group.leave(None if isinstance(error, RankError) else line or f"{type(error).__name__}: {error}")
    sys.exit(1)
