"""The conformance kit for commands."""

from __future__ import annotations

from copy import copy

import click
from click.testing import CliRunner

from tinyddpm import registry


def check_command(command: str | click.Command) -> None:
    """Check that a command keeps its contract: it is a click command, and it and each of its options have a help text.

    Args:
        command: its registered name, or the command.

    Raises:
        AssertionError: the command breaks its contract; the line names the option.
    """
    found = registry.load("commands", command) if isinstance(command, str) else command
    assert isinstance(found, click.Command), f"command {command!r} is a {type(found).__name__}, not click's"
    _check_help(found, f"command {command if isinstance(command, str) else found.name!r}")
    # A copy, because click stores the names of the help option on the command at the first call.
    result = CliRunner().invoke(copy(found), ["--help"])
    assert result.exit_code == 0, f"command {found.name!r}: --help fails: {result.exception!r}"


def _check_help(command: click.Command, what: str) -> None:
    """Check the help of a command, of its options, and of its subcommands."""
    assert command.help, f"{what} has no help: write a docstring"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{what}: option {parameter.opts[0]} has no help"
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            _check_help(below, f"{what} {name}")
