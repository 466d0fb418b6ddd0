"""Line charts made of characters: braille dots where the terminal can show them, plain ASCII where not. No colour."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import ConfigError

# The bit of each dot in a braille character (Unicode 2800 and on): 4 rows of 2 dots.
BRAILLE = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])

# (drawn, period) in dots along x: what tells the curves apart where there is no colour.
DASHES = ((1, 1), (5, 8), (1, 3), (1, 7))
MARKS = "*+ox#@%&"


def line_chart(
    series: Mapping[str, NDArray[np.floating]],
    width: int = 72,
    height: int = 16,
    log: bool = False,
    encoding: str | None = None,
) -> str:
    """Return the curves of `series` as text: a chart with its y axis, the steps below it, and a legend.

    Braille dashes tell four curves apart; more of them, or a terminal without braille, get an ASCII mark each.

    Args:
        series: up to eight curves by name, each of the same shape (n,), n >= 2.
        width: characters of the plot itself, without the y axis.
        height: lines of the plot itself.
        log: draw log10 of the values.
        encoding: what the text will be written in, standard output's by default.

    Raises:
        ConfigError: too many curves, too small a chart, or values that cannot be drawn.
    """
    _require_series(series, log)
    if width < 16 or height < 2:
        raise ConfigError(f"a chart of {width} by {height} characters is too small: give at least 16 by 2")
    braille = len(series) <= len(DASHES) and _can_encode("⣿", encoding or sys.stdout.encoding or "ascii")
    curves = [np.log10(y) if log else np.asarray(y, np.float64) for y in series.values()]
    low, high = min(y.min() for y in curves), max(y.max() for y in curves)
    if low == high:
        high += abs(high) or 1.0  # a flat curve lies at the bottom
    rows = _plot([(y - low) / (high - low) for y in curves], width, height, braille)
    return "\n".join([*_framed(rows, low, high, log, len(curves[0]), braille), _legend(series, braille)])


def _plot(curves: list[NDArray[np.float64]], width: int, height: int, braille: bool) -> list[str]:
    """Return the lines of the plot of `curves`, each with values in [0, 1]."""
    per_row, per_column = BRAILLE.shape if braille else (1, 1)
    cells = np.full((height, width), 0x2800 if braille else ord(" "))
    for number, y in enumerate(curves):
        dots = _trace(y, height * per_row, width * per_column)
        if braille:
            drawn, period = DASHES[number]
            dots &= np.arange(dots.shape[1]) % period < drawn
            cells |= np.einsum("hrwc,rc->hw", dots.reshape(height, per_row, width, per_column), BRAILLE)
        else:
            cells[dots] = ord(MARKS[number])
    return ["".join(map(chr, row)) for row in cells]


def _trace(y: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the dots (rows, columns) of a curve with values in [0, 1], joined from column to column, 1 at the top."""
    x = np.linspace(0, len(y) - 1, columns)
    row = np.rint((1 - np.interp(x, np.arange(len(y)), y)) * (rows - 1)).astype(int)
    before = np.concatenate([row[:1], row[:-1]])
    first = np.where(before < row, before + 1, row)  # from just past the last column's dot
    last = np.where(before > row, before - 1, row)
    down = np.arange(rows)[:, None]
    return (first <= down) & (down <= last)


def _framed(text: list[str], low: float, high: float, log: bool, steps: int, braille: bool) -> list[str]:
    """Return the lines of the plot with a y axis before and the steps below them."""
    side, corner, line = "│└─" if braille else "|+-"
    ticks = {0: high, len(text) // 2: high - (high - low) * (len(text) // 2) / (len(text) - 1), len(text) - 1: low}
    labels = [f"{10 ** ticks[i] if log else ticks[i]:.3g}" if i in ticks else "" for i in range(len(text))]
    margin = max(map(len, labels))
    plot = [f"{label:>{margin}} {side}{row}" for label, row in zip(labels, text, strict=True)]
    width, last = len(text[0]), str(steps - 1)
    axis = f"{'':>{margin}} {corner}{line * width}"
    below = f"{'':>{margin}}  t = 0{last:>{width - 5}}"
    return [*plot, axis, below]


def _legend(series: Mapping[str, object], braille: bool) -> str:
    """Return one line that shows how each curve is drawn."""
    keys = [mark * 3 for mark in MARKS]
    if braille:
        dots = [(np.arange(12) % period < drawn).reshape(6, 2) for drawn, period in DASHES]
        keys = ["".join(chr(0x2800 + bits) for bits in line @ BRAILLE[1]) for line in dots]
    return "   ".join(f"{key} {name}" for key, name in zip(keys, series, strict=False))


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
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
