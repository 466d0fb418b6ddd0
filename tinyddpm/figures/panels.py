"""Several charts in one picture, drawn with matplotlib."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from tinyddpm.figures.charts import Chart
from tinyddpm.figures.lines import COLOURS
from tinyddpm.figures.marks import Mark
from tinyddpm.figures.style import drawing


def draw_charts(charts: Sequence[Chart], path: str | os.PathLike[str], mark: Mark | None = None) -> None:
    """Write charts into one picture, two per row. Lines with the same number share a colour, named in one legend.

    Args:
        charts: at least one. Faint lines are not in the legend.
        path: the file to write, PNG or SVG.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
        DataError: the file cannot be written.
    """
    columns = min(2, len(charts))
    rows = math.ceil(len(charts) / columns)
    with drawing(path, (6 * columns, 3.2 * rows), mark) as figure:
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
        for panel in panels:
            panel.remove()
        figure.axes[0].legend()


def _plain(name: str) -> str:
    """Escape a name: matplotlib sets text between dollars as mathematics, and hides names that begin with _."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")
