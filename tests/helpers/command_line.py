"""The command line as a user meets it."""

from __future__ import annotations

from click.testing import CliRunner, Result

from tinyddpm.cli import main


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


def fails(*arguments: object, env: dict[str, str] | None = None) -> str:
    """The one line of an error, whose exit code is 1 or 2."""
    result = run(*arguments, env=env)
    assert result.exit_code in (1, 2), result.output
    error = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(error) == 1, result.stderr
    assert "Traceback" not in result.output
    return error[0]
