"""Ranks on the command line: a command shares its work with the processes that a launcher started with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from signal import SIGINT
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinyddpm.cli.options import GroupedCommand, option
from tinyddpm.cli.output import line_of, say
from tinyddpm.distributed.join import KINDS, join
from tinyddpm.distributed.launch import launched
from tinyddpm.errors import ConfigError, RankError, TinyDDPMError

if TYPE_CHECKING:
    from tinyddpm.distributed.group import Group

F = TypeVar("F", bound=Callable[..., Any])


class SharedCommand(GroupedCommand):
    """A command whose function is `shared`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the options; tell the other ranks if that fails."""
        with told_to_ranks(self, args):
            return super().make_context(info_name, list(args), parent, **extra)


def shared(function: F) -> F:
    """Return a command that joins the ranks launched with it, and passes their group to `function` as `group`.

    The command gets the option `--distributed`, the kind of the group.
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
        help="How ranks of mpiexec, srun or torchrun communicate; auto: NCCL between GPUs, else MPI or Torch.",
        group="Ranks",
    )(command)  # type: ignore[return-value]


@contextmanager
def told_to_ranks(command: click.Command, args: Sequence[str]) -> Iterator[None]:
    """Join the other ranks to tell them if the block, which reads what `command` was given, fails in this one.

    They would wait for it: what fails may be given to one rank alone, as variables of its machine are.
    """
    try:
        yield
    except (click.ClickException, TinyDDPMError):
        if launched().size == 1 or not isinstance(command, SharedCommand):
            raise
        known = command.make_context(command.name, list(args), resilient_parsing=True).params
        with ranks(known.get("distributed") or "auto"):
            raise


@contextmanager
def ranks(kind: str) -> Iterator[Group]:
    """Join the ranks that were launched together, run the block with their group, and leave it.

    Only rank 0 prints. An error in one rank ends all of them, and rank 0 prints its reason.

    Args:
        kind: how ranks communicate, one of `tinyddpm.distributed.join.KINDS`.

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
        except SystemExit:  # all ranks raise it at the same place
            group.leave()
            raise
        group.leave()
    except SystemExit:
        raise
    except BaseException as error:
        if group is ALONE and (kind == "none" or not launch.rank or isinstance(error, KeyboardInterrupt)):
            raise
        _give_up(group, error)


def _give_up(group: Group, error: BaseException) -> None:
    """Print why this rank ends, if it is the one that prints, tell the other ranks, and exit."""
    from tinyddpm.distributed.group import ALONE
    from tinyddpm.distributed.watch import place

    interrupted = isinstance(error, KeyboardInterrupt)
    line = "interrupted" if interrupted else line_of(error)
    launch = launched()
    # Before ranks have joined, the first one of each machine prints what all may lack, and each what befell it alone.
    where = f"rank {launch.rank} ({place()}): " if group is ALONE else ""
    with suppress(OSError, ValueError):
        if line is None:
            sys.stderr = sys.__stderr__  # `ranks` had closed it
            sys.excepthook(type(error), error, error.__traceback__)
        elif group.speaks if group is not ALONE else not (launch.local_rank and isinstance(error, ConfigError)):
            sys.stderr = sys.__stderr__
            say(f"Error: {where}{line}", err=True)
    group.leave(None if isinstance(error, RankError) else line or f"{type(error).__name__}: {error}")
    sys.exit(128 + SIGINT if interrupted else 1)
