"""The curves of runs in the terminal, once or again and again while they train."""

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
"""From so many columns on, a terminal has two charts beside each other."""

HIGH, LOW = 8, 3
"""Lines of a plot: as many as it likes, and at least."""

FRAME = 4
"""Lines of a chart that are not its plot: the title, the axis, what it says, and a space."""

PAUSE = 0.3
"""Seconds between two looks at the files of runs that are followed."""

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""To a screen of its own without a cursor, and back to what was there before (DEC private modes 1049 and 25)."""
HOME, END_OF_LINE, END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def drawn(
    runs: Mapping[str, Logged], chosen: Sequence[str], size: os.terminal_size, colour: bool, fit: bool = False
) -> list[str]:
    """Return the charts of runs as lines of text; none if nothing of what is chosen is logged as yet.

    Args:
        runs: what each has logged, by its name.
        chosen: metrics by name; all if none is named.
        size: of the terminal.
        colour: whether it shows colours.
        fit: make the charts low enough for all to be on the screen, and name those that are not.

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
        lines.append(f"for lack of lines left out: {', '.join(left_out)}")
    return lines


def _panel(chart: Chart, wide: int, high: int, colour: bool) -> list[str]:
    """Return a chart below its title, which tells the last value of each line, and a line of space."""
    lines = [line for line in chart.lines if not line.faint]
    now = ", ".join(f"{last(line.points)[1]:.4g}" for line in lines)
    title = f"{chart.title}  {now}" + (" smoothed; dotted: as logged" if len(lines) < len(chart.lines) else "")
    return [f"{title[:wide]:<{wide}}", *text_chart(chart, wide, high, colour), " " * wide]


def follow(
    folders: Mapping[str, Path], screen: Callable[[Mapping[str, Logged], os.terminal_size], list[str]], stream: TextIO
) -> Signals | None:
    """Show what runs log on a screen of its own, until all have ended; return the signal that ended it before, if any.

    Args:
        folders: those of the runs, by their names.
        screen: returns the lines to show of what is logged so far.
        stream: the terminal, which is left as it was.
    """
    before = None
    with interruptible() as interrupt:
        stream.write(ENTER)
        try:
            while not interrupt.signal:
                ended = all(map(has_ended, folders.values()))  # asked first, so that the last lines are seen
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
    """Return what runs have logged, by their names."""
    return {name: read_metrics(folder / METRICS) for name, folder in folders.items()}


def has_ended(folder: Path) -> bool:
    """Whether a run has ended by its own record. One that was killed has not, and may be resumed."""
    parts = read_record(folder / RECORD)
    return not parts or parts[-1].get("ended") is not None
