"""The conformance kit for commands."""

from __future__ import annotations

from copy import copy

import click
from click.testing import CliRunner

from tinyddpm import registry


def check_command(command: str | click.Command) -> None:
    """Check that a command keeps its contract: it is click's, and says in its help what it and each option does.

    Args:
        command: its registered name, or the command.

    Raises:
        AssertionError: it does not; the line names the option.
    """
    found = registry.load("commands", command) if isinstance(command, str) else command
    assert isinstance(found, click.Command), f"command {command!r} is a {type(found).__name__}, not click's"
    _check_help(found, f"command {command if isinstance(command, str) else found.name!r}")
    # A copy: click remembers by which names a command's help was asked for first.
    result = CliRunner().invoke(copy(found), ["--help"])
    assert result.exit_code == 0, f"command {found.name!r}: --help fails: {result.exception!r}"


def _check_help(command: click.Command, what: str) -> None:
    """Check the help of a command, its options, and the commands below it."""
    assert command.help, f"{what} has no help: write a docstring"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{what}: option {parameter.opts[0]} has no help"
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            _check_help(below, f"{what} {name}")
