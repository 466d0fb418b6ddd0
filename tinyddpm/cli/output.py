"""What the commands print."""

from __future__ import annotations

from typing import Any

import click

from tinyddpm.errors import TinyDDPMError, shown


def say(*lines: str, err: bool = False, **style: Any) -> None:
    """Print texts, a line each; what a terminal would act on in them is shown, for names may come from anyone.

    Args:
        lines: the texts.
        err: whether to print to standard error.
        style: as `click.style` takes it, such as `fg="red"`.
    """
    safe = [click.style(shown(line), **style) if style else shown(line) for line in lines]
    click.echo("\n".join(safe), err=err)


def line_of(error: BaseException) -> str | None:
    """Return the line of an error that a user can act on, or of the system; None for any other, and a closed pipe."""
    match error:
        case click.ClickException():
            return shown(error.message)
        case TinyDDPMError():
            return str(error)
        case MemoryError():
            return f"memory does not suffice: {shown(str(error)) or 'it is not said for what'}: ask for less at once"
        case OSError() if not isinstance(error, BrokenPipeError):
            return shown(f"{error.filename or 'input or output'}: {error.strerror or error}")
    return None
