"""The command line, `tinyddpm train | sample | edit | …`: it parses options, calls the library and prints results."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

import click

from tinyddpm import __version__, registry
from tinyddpm.cli.options import ENV_PREFIX, HELP
from tinyddpm.cli.output import line_of, say
from tinyddpm.cli.ranks import told_to_ranks
from tinyddpm.distributed.launch import launched
from tinyddpm.errors import RegistryError, TinyDDPMError, TinyDDPMWarning, shown, unknown
from tinyddpm.progress import end_line

COMMANDS = (
    "train", "sample", "edit", "nll", "evaluate", "average", "plot", "report", "figure", "info", "export", "import",
    "plugins", "schedule", "bench", "book",
)  # fmt: skip
"""Names of the built-in commands, in the order of the help."""


class Commands(click.Group):
    """The group of all commands: entry points of the group `tinyddpm.commands`, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, those of plugins last."""
        return [*COMMANDS, *sorted({entry.name for entry in registry.entries("commands")} - set(COMMANDS))]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command `name`, None if there is none; if it cannot be loaded, a command that says why."""
        if name not in self.list_commands(ctx):
            return None
        try:
            command = registry.load("commands", name)
            if not isinstance(command, click.Command):
                raise RegistryError(f"command {name!r} is {command!r}: register a click command")
        except RegistryError as error:
            return _broken(name, error)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command's name, the command and its arguments. The error for an unknown name says the nearest.

        Variables that no option reads are refused here, before the command's own options are read.
        """
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(unknown("command", args[0], names), ctx)
        name, command, args = super().resolve_command(ctx, args)
        if command and not ctx.resilient_parsing:
            with told_to_ranks(command, args):
                self._check_environment(ctx)
        return name, command, args

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the options before the command's name."""
        with _in_one_line():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error that a user can act on becomes one line and exit code 1, a warning a note."""
        with _in_one_line(), warnings.catch_warnings():
            warnings.showwarning = _note
            return super().invoke(ctx)

    def _check_environment(self, ctx: click.Context) -> None:
        """Refuse `TINYDDPM_*` variables that no option reads: a misspelt one would be ignored without a word."""
        given = [name for name in os.environ if name.startswith(ENV_PREFIX)]
        if not given:
            return
        commands = filter(None, (self.get_command(ctx, name) for name in self.list_commands(ctx)))
        known = {str(option.envvar) for command in commands for option in _options(command) if option.envvar}
        for name in given:
            if name not in known:
                raise click.UsageError(unknown("environment variable", name, known), ctx)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Turn errors that a user can act on, and errors of the operating system, into click's errors of one line.

    A closed pipe is left to click, which ends without a message. Ctrl-C ends in one line, too.
    """
    try:
        yield
    except click.ClickException as error:
        vars(error).update(message=shown(error.message))
        raise
    except (TinyDDPMError, MemoryError, OSError) as error:
        line = line_of(error)
        if line is None:
            raise
        raise click.ClickException(line) from error
    except (KeyboardInterrupt, click.Abort):  # Abort by a command that another one calls, as `book` does `figure`
        _interrupted()
    finally:
        end_line()


def _interrupted() -> NoReturn:
    """Print a line, in the first rank, and exit by code 130, or die of the signal before ranks have joined.

    A launcher ends the other ranks, which may wait for this one in MPI, only where one dies of a signal.
    """
    launch = launched()
    if not launch.rank:
        say("interrupted", err=True)
    if launch.size > 1:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    sys.exit(128 + signal.SIGINT)


def _note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning to standard error, if that is open: this package's as one line, others with file and line."""
    ours = issubclass(category, TinyDDPMWarning)
    text = f"note: {message}" if ours else warnings.formatwarning(message, category, filename, lineno, line)
    say(*([text] if ours else text.split("\n")), err=True)


def _broken(name: str, error: RegistryError) -> click.Command:
    """Return a command that takes any arguments and raises `error`, in the place of one that cannot be loaded."""

    def fail() -> None:
        raise error

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, anything, fail, help=str(error), short_help="broken: `tinyddpm plugins` says why")


def _options(command: click.Command) -> list[click.Parameter]:
    """Return the parameters of a command and of all its subcommands."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return [*command.params, *(parameter for each in below for parameter in _options(each))]


@click.group(cls=Commands, context_settings={"help_option_names": HELP, "max_content_width": 110})
@click.version_option(__version__, prog_name="tinyddpm")
def main() -> None:
    """Denoising diffusion from scratch: train on images, and draw new ones.

    Settings come from the data set's preset, --config FILE.toml, TINYDDPM_* variables and flags; the later ones win.
    """
