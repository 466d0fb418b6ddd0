"""Printing, and the lines of errors, with unprintable characters escaped."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import click

from tinyddpm.errors import TinyDDPMError, shown
from tinyddpm.progress import end_line


def say(*lines: str, err: bool = False, **style: Any) -> None:
    """Print texts, a line each. Characters that a terminal would obey are escaped: a name may come from anyone.

    Args:
        lines: the texts.
        err: whether to print to standard error. If that takes nothing, such as a pipe without a reader, the texts are
            dropped: what a command has to tell on standard output is worth more.
        style: as for `click.style`, such as `fg="red"`.
    """
    end_line()
    safe = [click.style(shown(line), **style) if style else shown(line) for line in lines]
    with suppress(OSError) if err else nullcontext():
        click.echo("\n".join(safe), err=err)


def line_of(error: BaseException) -> str | None:
    """Return the line of an error that a user can act on or the system raised; None for others and a closed pipe."""
    match error:
        case click.ClickException():
            return shown(error.format_message())
        case TinyDDPMError():
            return str(error)
        case MemoryError():
            return f"memory does not suffice: {shown(str(error)) or 'for an unnamed object'}: ask for less at once"
        case OSError() if not isinstance(error, BrokenPipeError):
            return shown(f"{error.filename or 'input or output'}: {error.strerror or error}")
    return None
