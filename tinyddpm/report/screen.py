"""The curves of runs in the terminal, drawn once or repeatedly while the runs train."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import TextIO

from tinyddpm.figures.charts import Chart
from tinyddpm.figures.terminal import legend, shows_braille, text_chart
from tinyddpm.report.metrics import METRICS, Logged, charts, last, read_metrics
from tinyddpm.training.interrupt import interruptible
from tinyddpm.training.record import RECORD, read_record

TWO_BESIDE = 100
"""Width of a terminal in columns from which on two charts stand side by side."""

HIGH, LOW = 8, 3
"""Usual and smallest height of a plot in lines."""

FRAME = 4
"""Lines of a chart besides its plot: the title, the x axis, its labels, and a blank line."""

PAUSE = 0.3
"""Seconds between two checks of the metrics files that are followed."""

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""Switch to the alternate screen without a cursor, and back (DEC private modes 1049 and 25)."""
HOME, END_OF_LINE, END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def drawn(
    runs: Mapping[str, Logged], chosen: Sequence[str], size: os.terminal_size, colour: bool, fit: bool = False
) -> list[str]:
    """Return the charts of runs as lines of text; no lines if none of the chosen metrics has been logged yet.

    Args:
        runs: the metrics of each run, by the run's name.
        chosen: names of metrics; all metrics if empty.
        size: size of the terminal.
        colour: whether the terminal shows colours.
        fit: whether to reduce the charts' height to the terminal's, and drop charts for which there is no room.

    Raises:
        ConfigError: a metric is unknown.
    """
    panels = charts({name: logged.curves for name, logged in runs.items()}, chosen)
    if not panels:
        return []
    columns = 2 if size.columns >= TWO_BESIDE and len(panels) > 1 else 1
    high, left_out = HIGH, list[str]()
    if fit:
        space = size.lines - 3
        while len(panels) > 1 and space // -(-len(panels) // columns) < FRAME + LOW:
            left_out.insert(0, panels.pop().title)
        high = min(max(space // -(-len(panels) // columns) - FRAME, LOW), 2 * HIGH)
    wide = max(30, size.columns // columns - 2)
    lines = []
    if len(runs) > 1:
        lines.append(legend(list(runs), shows_braille(len(runs), colour), colour))
    for row in range(0, len(panels), columns):
        beside = [_panel(chart, wide, high, colour) for chart in panels[row : row + columns]]
        lines += ["  ".join(line).rstrip() for line in zip(*beside, strict=True)]
    if left_out:
        lines.append(f"no room for: {', '.join(left_out)}")
    return lines


def _panel(chart: Chart, wide: int, high: int, colour: bool) -> list[str]:
    """Return a title with the last value of each line, the chart, and a blank line."""
    lines = [line for line in chart.lines if not line.faint]
    now = ", ".join(f"{last(line.points)[1]:.4g}" for line in lines)
    title = f"{chart.title}  {now}" + (" smoothed; dotted: as logged" if len(lines) < len(chart.lines) else "")
    return [f"{title[:wide]:<{wide}}", *text_chart(chart, wide, high, colour), " " * wide]


def follow(
    folders: Mapping[str, Path], screen: Callable[[Mapping[str, Logged], os.terminal_size], list[str]], stream: TextIO
) -> Signals | None:
    """Show the metrics of runs on an alternate screen until all runs have ended.

    Args:
        folders: the run folders, by the runs' names.
        screen: returns the lines of the screen for the metrics so far.
        stream: the terminal, which is restored at the end.

    Returns:
        the signal that ended it earlier, or None.
    """
    before = None
    with interruptible() as interrupt:
        stream.write(ENTER)
        try:
            while not interrupt.signal:
                ended = all(map(has_ended, folders.values()))  # before reading, so that the last lines are shown
                files = [(folder / METRICS).stat() for folder in folders.values()]
                now = [shutil.get_terminal_size(), *((file.st_size, file.st_mtime_ns) for file in files)]
                if now != before:
                    lines = screen(read_all(folders), shutil.get_terminal_size())
                    stream.write(HOME + "".join(f"{line}{END_OF_LINE}\n" for line in lines) + END_OF_SCREEN)
                    stream.flush()
                    before = now
                if ended:
                    break
                time.sleep(PAUSE)
        finally:
            stream.write(LEAVE)
            stream.flush()
    return interrupt.signal


def read_all(folders: Mapping[str, Path]) -> dict[str, Logged]:
    """Return the metrics of runs, by the runs' names."""
    return {name: read_metrics(folder / METRICS) for name, folder in folders.items()}


def has_ended(folder: Path) -> bool:
    """Whether a run has ended according to `run.json`. A run that was killed has not; it may be resumed."""
    parts = read_record(folder / RECORD)
    return not parts or parts[-1].get("ended") is not None
