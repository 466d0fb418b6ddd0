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
MARKS = "*+o."


def line_chart(
    series: Mapping[str, NDArray[np.floating]],
    width: int = 72,
    height: int = 16,
    log: bool = False,
    encoding: str | None = None,
) -> str:
    """Return the curves of `series` as text: a chart with its y axis, the steps below it, and a legend.

    Args:
        series: up to four curves by name, each of the same shape (n,), n >= 2.
        width: characters of the plot itself, without the y axis.
        height: lines of the plot itself.
        log: draw log10 of the values.
        encoding: what the text will be written in, standard output's by default; braille where it can, else ASCII.

    Raises:
        ConfigError: too many curves, too small a chart, or values that cannot be drawn.
    """
    _require_series(series, log)
    if width < 8 or height < 2:
        raise ConfigError(f"a chart of {width} × {height} characters is too small: give at least 8 × 2")
    braille = _can_encode("⣿", encoding or sys.stdout.encoding or "ascii")
    per_row, per_column = BRAILLE.shape if braille else (1, 1)
    curves = {name: np.log10(y) if log else np.asarray(y, float) for name, y in series.items()}
    low = min(y.min() for y in curves.values())
    high = max(y.max() for y in curves.values())
    span = (high - low) or 1.0  # a flat curve lies at the bottom

    cells = np.full((height, width), 0 if braille else ord(" "))
    for number, y in enumerate(curves.values()):
        drawn, period = DASHES[number] if braille else (1, 1)
        dots = _trace((y - low) / span, height * per_row, width * per_column)
        dots &= np.arange(dots.shape[1]) % period < drawn
        tiles = dots.reshape(height, per_row, width, per_column)
        if braille:
            cells |= np.einsum("hrwc,rc->hw", tiles, BRAILLE)
        else:
            cells[tiles[:, 0, :, 0]] = ord(MARKS[number])
    text = ["".join(map(chr, row + 0x2800 * braille)) for row in cells]
    return "\n".join(
        _framed(text, low, low + span, log, len(next(iter(curves.values()))), braille) + _legend(series, braille)
    )


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


def _legend(series: Mapping[str, object], braille: bool) -> list[str]:
    """Return one line that shows how each curve is drawn."""
    keys = []
    for number, name in enumerate(series):
        drawn, period = DASHES[number]
        dots = (np.arange(12) % period < drawn).reshape(6, 2)
        sample = "".join(chr(0x2800 + int(dot @ BRAILLE[1])) for dot in dots) if braille else MARKS[number] * 3
        keys.append(f"{sample} {name}")
    return ["   ".join(keys)]


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _require_series(series: Mapping[str, NDArray[np.floating]], log: bool) -> None:
    if not 1 <= len(series) <= len(DASHES):
        raise ConfigError(f"{len(series)} curves in one chart: give 1 to {len(DASHES)}")
    shapes = {np.shape(y) for y in series.values()}
    if len(shapes) > 1 or len(shape := shapes.pop()) != 1 or shape[0] < 2:
        raise ConfigError("the curves of one chart must have the same number of steps, at least 2")
    for name, y in series.items():
        if not np.isfinite(y).all():
            raise ConfigError(f"{name} has values that are not finite and cannot be drawn")
        if log and y.min() <= 0:
            raise ConfigError(f"{name} goes down to {y.min():.3g}: a logarithmic chart takes values above 0 only")
