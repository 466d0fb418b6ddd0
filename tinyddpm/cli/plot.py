"""`tinyddpm plot`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyddpm.cli.completion import FilePath, RunPath
from tinyddpm.cli.options import GroupedCommand, argument, command_mark, option
from tinyddpm.cli.output import say
from tinyddpm.errors import ConfigError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tinyddpm.report.metrics import Logged


@click.command(cls=GroupedCommand)
@argument("runs", "Run folders.", metavar="RUNS...", nargs=-1, required=True, type=RunPath())
@option(
    "--metrics",
    help="Charts to draw, separated by commas; all if not given: loss, validation_loss, gradient_norm, learning_rate,"
    " samples_per_second.",
    group="Charts",
)
@option("--follow", is_flag=True, help="Redraw the charts until the runs have ended, or Ctrl-C.", group="Charts")
@option(
    "--out",
    type=FilePath(),
    help="Also draw the charts into this file, .png or .svg; needs the figures extra.",
    group="Output",
)
def plot(runs: tuple[Path, ...], metrics: str | None, follow: bool, out: Path | None) -> None:
    """Draw the curves that RUNS have logged so far.

    Loss and gradient norm are smoothed over a twentieth of the logged values. The title of a chart shows the last value
    of each run. --follow waits on for a run that was killed. NO_COLOR=1 turns colours off.
    """
    from tinyddpm.figures.panels import draw_charts
    from tinyddpm.figures.style import check_figure
    from tinyddpm.files import check_target
    from tinyddpm.report import screen
    from tinyddpm.report.metrics import charts, run_names, unread

    folders = run_names(runs)
    chosen = [name.strip() for name in metrics.split(",")] if metrics is not None else []
    terminal = sys.stdout is not None and sys.stdout.isatty()  # it is None if it is closed
    colour = terminal and not os.environ.get("NO_COLOR")
    if follow and not terminal:
        raise ConfigError("--follow draws on a terminal, but standard output is not one: leave it out")
    if out:
        check_figure(out)
        check_target(out)

    def fitted(logged: Mapping[str, Logged], size: os.terminal_size) -> list[str]:
        lines = screen.drawn(logged, chosen, size, colour, fit=True)
        return [*map(shown, unread(logged)), *(lines or ["waiting for the first lines of metrics"])]

    signal = screen.follow(folders, fitted, sys.stdout) if follow else None
    logged = screen.read_all(folders)
    for note in unread(logged):
        say(f"note: {note}", err=True)
    lines = screen.drawn(logged, chosen, shutil.get_terminal_size(), colour)
    if not lines and not signal:
        raise ConfigError("none of these metrics is logged yet: wait, or choose other --metrics")
    click.echo("\n".join(lines), color=colour)
    if out and lines:
        draw_charts(charts({name: found.curves for name, found in logged.items()}, chosen), out, command_mark())
        say(f"wrote {out}")
    if signal:
        sys.exit(128 + signal)
