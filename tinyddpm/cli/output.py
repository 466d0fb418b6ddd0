"""What the commands print."""

from __future__ import annotations

from typing import Any

import click

from tinyddpm.errors import shown


def say(*lines: str, err: bool = False, **style: Any) -> None:
    """Print texts, a line each; what a terminal would act on in them is shown, for names may come from anyone.

    Args:
        lines: the texts.
        err: whether to print to standard error.
        style: as `click.style` takes it, such as `fg="red"`.
    """
    safe = [click.style(shown(line), **style) if style else shown(line) for line in lines]
    click.echo("\n".join(safe), err=err)
