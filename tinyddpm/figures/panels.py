"""Charts drawn with matplotlib (the `figures` extra), by its objects alone: no global state, no window."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from tinyddpm.errors import ConfigError
from tinyddpm.figures.charts import Chart
from tinyddpm.figures.files import replacing
from tinyddpm.figures.lines import COLOURS

FORMATS = (".png", ".svg")


def check_picture(path: Path) -> None:
    """Refuse a file to draw into that is of another format, or where matplotlib is missing.

    Raises:
        ConfigError: it is.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path} is none of the pictures that can be drawn: name it .png or .svg")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError("drawing charts needs matplotlib: pip install 'tinyddpm[figures]'") from error


def draw_charts(charts: Sequence[Chart], path: str | os.PathLike[str]) -> None:
    """Write charts into one picture, two beside each other; lines of a number have a colour, named in a legend.

    Args:
        charts: at least one; lines behind others are not named.
        path: the file to write, PNG or SVG by its name.

    Raises:
        ConfigError: matplotlib is missing, or the format is another.
        DataError: the file cannot be written.
    """
    target = Path(path)
    check_picture(target)
    from matplotlib.figure import Figure

    columns = min(2, len(charts))
    rows = math.ceil(len(charts) / columns)
    figure = Figure(figsize=(6 * columns, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for chart, panel in zip(charts, panels, strict=False):
        below, side = chart.axes()
        for line in chart.lines:
            colour = [part / 255 for part in COLOURS[line.number % len(COLOURS)]]
            few = len(line.points[0]) <= 20
            panel.plot(
                *line.points,
                color=colour,
                alpha=0.3 if line.faint else 1.0,
                marker="." if few else None,
                zorder=2 if line.faint else 3,
                label="_hidden" if line.faint else _plain(line.name),
            )
        panel.set(title=_plain(chart.title), xlabel=chart.below)
        panel.set(xscale="log" if below.log else "linear", yscale="log" if side.log else "linear")
        panel.set(xlim=(below.low, below.high), ylim=(side.low, side.high))
        panel.set_xticks(below.ticks, [f"{tick:,.6g}" for tick in below.ticks])
        panel.set_yticks(side.ticks, [f"{tick:,.6g}" for tick in side.ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    for panel in panels:
        panel.remove()
    figure.axes[0].legend()
    with replacing(target) as file:
        figure.savefig(file, format=target.suffix.lower().removeprefix("."), dpi=120)


def _plain(name: str) -> str:
    """Return a name that matplotlib shows as it is: dollars would be mathematics to it, and a leading _ hide it."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")
