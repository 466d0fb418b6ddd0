"""Charts made of characters: braille dots and blocks if the terminal can show them, otherwise ASCII."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import ConfigError, shown
from tinyddpm.figures.axes import Axis
from tinyddpm.figures.charts import Chart, Line

# The bit of each dot in a braille character (Unicode 2800 and on): 4 rows of 2 dots.
BRAILLE = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])

# (drawn, period) in dots along x: dashes that distinguish curves without colour.
DASHES = ((1, 1), (5, 8), (1, 3), (1, 7))
MARKS = "*+ox#@%&"
FAINT_DASH, FAINT_MARK = DASHES[2], "."
"""Dash and ASCII mark of a faint line."""

BLOCKS, SHADES = " ░▒▓█", " .:-=+*#%@"
"""Characters for increasing values, in Unicode and in ASCII."""

COLOURS = (36, 33, 35, 32, 34, 31)
"""ANSI codes of the terminal's cyan, yellow, magenta, green, blue and red."""


def line_chart(
    series: Mapping[str, NDArray[np.floating]],
    width: int = 72,
    height: int = 16,
    log: bool = False,
    encoding: str | None = None,
) -> str:
    """Return the curves of `series` as text: a chart with a y axis, the steps on the x axis, and a legend.

    Braille dashes distinguish up to four curves. More curves, or a terminal without braille, use ASCII marks.

    Args:
        series: one to eight curves by name, all of the same shape (n,), n ≥ 2.
        width: width of the plot in characters, without the y axis.
        height: height of the plot in lines.
        log: whether to draw log10 of the values.
        encoding: encoding of the output, that of standard output by default.

    Raises:
        ConfigError: too many curves, too small a chart, or values that a chart cannot show.
    """
    _require_series(series, log)
    if width < 16 or height < 2:
        raise ConfigError(f"a chart of {width} by {height} characters is too small: give at least 16 by 2")
    braille = len(series) <= len(DASHES) and _can_encode("⣿", encoding)
    curves = [np.log10(y) if log else np.asarray(y, np.float64) for y in series.values()]
    low, high = min(y.min() for y in curves), max(y.max() for y in curves)
    if low == high:
        high += abs(high) or 1.0  # flat curves are drawn at the bottom
    steps = len(curves[0])
    at = np.linspace(0, steps - 1, _columns(width, braille))
    traces = [(np.interp(at, np.arange(steps), y) - low) / (high - low) for y in curves]
    rows = _plot(traces, height, [_style(number) for number in range(len(curves))], braille)
    ends = [10**end if log else end for end in (high, high - (high - low) * (height // 2) / (height - 1), low)]
    return "\n".join([*_framed(rows, width, ends, "t = 0", str(steps - 1), braille), legend(list(series), braille)])


def text_chart(
    chart: Chart, width: int = 72, height: int = 10, colour: bool = False, encoding: str | None = None
) -> list[str]:
    """Return a chart as lines of text of equal width: the plot, with an axis at the left and one below.

    Args:
        chart: a chart whose lines have numbers from 0 to 7.
        width: width in characters, axis included. The plot is at least 16 wide.
        height: height of the plot in lines, at least 2.
        colour: whether to colour lines by their numbers, with ANSI escape sequences.
        encoding: encoding of the output, that of standard output by default.
    """
    braille = shows_braille(max(line.number for line in chart.lines) + 1, colour, encoding)
    below, side = chart.axes()
    ends = [side.at(place) for place in (1.0, 1 - height // 2 / (height - 1), 0.0)]
    plot = max(16, width - _margin(ends) - 2)
    lines = sorted(chart.lines, key=lambda line: not line.faint)  # faint ones first, behind the others
    traces = [_resampled(line, below, side, _columns(plot, braille)) for line in lines]
    rows = _plot(traces, height, [_style(line.number, colour, line.faint) for line in lines], braille)
    first, last = (f"{end:,.0f}" for end in (below.at(0.0), below.at(1.0)))
    return _framed(rows, plot, ends, f"{chart.below} {first}", last, braille)


def shade_chart(
    values: NDArray[np.floating],
    ends: tuple[float, float],
    most: float,
    steps: int,
    width: int = 72,
    height: int = 15,
    encoding: str | None = None,
) -> str:
    """Return a heat map over time and place as text: higher values have fuller characters.

    Args:
        values: (K, X), at least 0, at K evenly spaced times and X evenly spaced places.
        ends: the lowest and the highest place.
        most: value from which on a character is full.
        steps: the times range from 0 to steps − 1.
        width: width of the plot in characters, without the y axis.
        height: height of the plot in lines.
        encoding: encoding of the output, that of standard output by default.
    """
    blocks = _can_encode(BLOCKS, encoding)
    shades = np.array([*(BLOCKS if blocks else SHADES)])
    times, places = values.shape
    at, edges = np.linspace(0, times - 1, width).round().astype(int), np.linspace(0, places - 1, height + 1)
    areas = np.cumsum((values[:, :-1] + values[:, 1:]) / 2, axis=1)  # integral by trapezoids
    below = [np.interp(edges, np.arange(places), [0, *areas[time]]) for time in at]
    means = np.diff(below, axis=1).T[::-1] / (edges[1] - edges[0])  # per cell, the highest place first
    levels = np.rint(np.minimum(means / most, 1) * (len(shades) - 1)).astype(int)
    low, high = ends
    half = (high - low) / (2 * height)
    middles = [high - half * (2 * row + 1) for row in (0, height // 2, height - 1)]
    rows = ["".join(row) for row in shades[levels]]
    key = f"{''.join(shades)} from 0 to {most:.3g} and more"
    return "\n".join([*_framed(rows, width, middles, "t = 0", str(steps - 1), blocks), key])


def shows_braille(lines: int, colour: bool, encoding: str | None = None) -> bool:
    """Return whether this many lines are drawn in braille, where only dashes or colours distinguish them."""
    return (colour or lines <= len(DASHES)) and _can_encode("⣿", encoding)


def legend(names: Sequence[str], braille: bool, colour: bool = False) -> str:
    """Return the legend in one line of text: a sample of each line and its name, numbered in order."""
    keys = [mark * 3 for mark in MARKS]
    if braille:
        dots = [(np.arange(12) % period < drawn).reshape(6, 2) for drawn, period in DASHES]
        keys = ["".join(chr(0x2800 + bits) for bits in line @ BRAILLE[1]) for line in dots]
    coloured = [_coloured(keys[number % len(keys)], _style(number, colour).colour) for number in range(len(names))]
    return "   ".join(f"{key} {shown(name)}" for key, name in zip(coloured, names, strict=True))


class _Style(NamedTuple):
    """Style of a line: (drawn, period) of its braille dash, its ASCII mark, and its ANSI colour codes, "" for none."""

    dash: tuple[int, int]
    mark: str
    colour: str = ""


def _style(number: int, colour: bool = False, faint: bool = False) -> _Style:
    codes = f"{'2;' if faint else ''}{COLOURS[number % len(COLOURS)]}" if colour else ""
    if faint:
        return _Style(FAINT_DASH, FAINT_MARK, codes)
    return _Style(DASHES[number % len(DASHES)], MARKS[number % len(MARKS)], codes)


def _coloured(text: str, codes: str) -> str:
    return f"\x1b[{codes}m{text}\x1b[0m" if codes else text


def _columns(width: int, braille: bool) -> int:
    """Return the number of dots or marks across `width` characters."""
    return width * (BRAILLE.shape[1] if braille else 1)


def _resampled(line: Line, below: Axis, side: Axis, columns: int) -> NDArray[np.float64]:
    """Return the height of a line in each column, in [0, 1]; NaN before its first point and after its last."""
    x = np.array([below.place(value) for value in line.points[0]]) * (columns - 1)
    y = np.array([side.place(value) for value in line.points[1]])
    found: NDArray[np.float64] = np.interp(np.arange(columns), x, y, left=np.nan, right=np.nan)
    ends = np.rint(x[[0, -1]]).astype(int)  # a point may lie between two columns
    found[ends] = np.where(np.isnan(found[ends]), y[[0, -1]], found[ends])
    return found


def _plot(traces: list[NDArray[np.float64]], height: int, styles: list[_Style], braille: bool) -> list[str]:
    """Return the text lines of a plot. A trace has a value in [0, 1], or NaN, for each column of dots."""
    per_row, per_column = BRAILLE.shape if braille else (1, 1)
    width = len(traces[0]) // per_column
    cells = np.full((height, width), 0x2800 if braille else ord(" "))
    owner = np.full((height, width), -1)
    for number, (y, style) in enumerate(zip(traces, styles, strict=True)):
        dots = _trace(y, height * per_row)
        if braille:
            drawn, period = style.dash
            dots &= np.arange(dots.shape[1]) % period < drawn
            bits = np.einsum("hrwc,rc->hw", dots.reshape(height, per_row, width, per_column), BRAILLE)
            cells |= bits
            owner[bits > 0] = number
        else:
            cells[dots] = ord(style.mark)
            owner[dots] = number
    codes = ["", *(style.colour for style in styles)]  # index owner + 1; empty cells have owner -1
    return [
        "".join(
            _coloured("".join(chr(cell) for cell, _ in run), codes[of + 1])
            for of, run in groupby(zip(row, owners, strict=True), key=lambda pair: int(pair[1]))
        )
        for row, owners in zip(cells, owner, strict=True)
    ]


def _trace(y: NDArray[np.float64], rows: int) -> NDArray[np.bool_]:
    """Return the dots (rows, columns) of a curve with values in [0, 1], 1 at the top, connected between columns."""
    here = np.isfinite(y)
    row = np.rint((1 - np.where(here, y, 0)) * (rows - 1)).astype(int)
    before = np.concatenate([row[:1], np.where(here[:-1], row[:-1], row[1:])])
    first = np.where(before < row, before + 1, row)  # from just past the last column's dot
    last = np.where(before > row, before - 1, row)
    down = np.arange(rows)[:, None]
    return here & (first <= down) & (down <= last)


def _framed(text: list[str], width: int, ends: list[float], first: str, last: str, braille: bool) -> list[str]:
    """Add axes to the text lines of a plot.

    The y axis has `ends` as labels at its top, middle and bottom; the x axis has the labels `first` and `last`.
    """
    side, corner, line = "│└─" if braille else "|+-"
    places = (0, len(text) // 2, len(text) - 1)
    named = {row: f"{end:.3g}" for row, end in zip(places, ends, strict=True)}
    margin = _margin(ends)
    plot = [f"{named.get(number, ''):>{margin}} {side}{row}" for number, row in enumerate(text)]
    axis = f"{'':>{margin}} {corner}{line * width}"
    below = f"{'':>{margin}}  {first}{last:>{width - len(first)}}"
    return [*plot, axis, below]


def _margin(ends: list[float]) -> int:
    """Return the width in characters of an axis's labels."""
    return max(len(f"{end:.3g}") for end in ends)


def _can_encode(text: str, encoding: str | None) -> bool:
    """Whether `encoding`, by default that of standard output, has these characters. A closed output has none."""
    try:
        text.encode(encoding or getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _require_series(series: Mapping[str, NDArray[np.floating]], log: bool) -> None:
    if not 1 <= len(series) <= len(MARKS):
        raise ConfigError(f"{len(series)} curves in one chart: give 1 to {len(MARKS)}")
    shapes = {np.shape(y) for y in series.values()}
    if len(shapes) > 1 or len(shape := shapes.pop()) != 1 or shape[0] < 2:
        raise ConfigError("the curves of one chart must have the same number of steps, at least 2")
    for name, y in series.items():
        if not np.isfinite(y).all():
            raise ConfigError(f"{name} has values that are not finite and cannot be drawn")
        if log and y.min() <= 0:
            raise ConfigError(f"{name} goes down to {y.min():.3g}: a logarithmic chart takes values above 0 only")
