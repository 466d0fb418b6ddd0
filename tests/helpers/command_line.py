"""The command line as a user meets it, and what makes a run of it tiny."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from tinyddpm.cli import main

TWO_STEPS = ["--steps", "2", "--timesteps", "5", "--batch-size", "4", "--sample-count", "4"]
"""A run of any data, to have one: a checkpoint and a grid of samples."""

SIX_STEPS = ["--steps", "6", "--timesteps", "20", "--batch-size", "16", "--sample-count", "9"]
"""A run with a chain that is long enough to be sampled in fewer steps. What is given after these is what counts."""

MOONS = ["--data", "moons", "--set", "network.width=16", "--set", "network.depth=1"]
"""Points, by a network of one block."""

NARROW = ["--set", "network.channels=8"]
"""Images, by the U-Net of their preset with few channels."""

ONE_LEVEL = [*NARROW, "--set", "network.multipliers=[1]", "--set", "network.attention=[]"]
"""Images of any size, by the least U-Net."""


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    """What a command says and its exit code; an error that it does not tell of itself is raised."""
    result = CliRunner().invoke(main, [*map(str, arguments)], env=env)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def says(*arguments: object, env: dict[str, str] | None = None) -> str:
    """What a command that ends well writes on standard output."""
    result = run(*arguments, env=env)
    assert result.exit_code == 0, result.output
    return result.stdout


def trained(folder: Path, *arguments: object) -> str:
    """Train a run in a folder, and return its name for other commands."""
    says("train", "--out", folder, *arguments)
    return str(folder)


def fails(*arguments: object, env: dict[str, str] | None = None) -> str:
    """The one line of an error, whose exit code is 1 or 2."""
    result = run(*arguments, env=env)
    assert result.exit_code in (1, 2), result.output
    error = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(error) == 1, result.stderr
    assert "Traceback" not in result.output
    return error[0]
