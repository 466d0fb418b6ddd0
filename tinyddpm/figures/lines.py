"""Charts of curves with a logarithmic y axis, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from tinyddpm.errors import ConfigError
from tinyddpm.figures.axes import levels, steps
from tinyddpm.figures.images import Pixels

Curve: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""x and y of the points, two sequences of the same length."""

COLOURS = ((31, 78, 140), (214, 96, 28), (46, 139, 87), (150, 40, 120), (90, 90, 90), (200, 160, 0))
PAPER, TEXT, FRAME = (255, 255, 255), (40, 40, 40), (215, 215, 215)

LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50
"""Margins around the plot in pixels."""

FINER = 2
"""Factor by which the chart is drawn larger and then reduced, for smooth lines."""


def line_picture(
    curves: Mapping[str, Curve], title: str = "", x_label: str = "", size: tuple[int, int] = (900, 540)
) -> Pixels:
    """Return a chart of curves with a legend, uint8 (height, width, 3). x begins at 0, y is logarithmic.

    Args:
        curves: one to six curves by name. Later ones are drawn over earlier ones.
        title: text above the plot.
        x_label: text below the plot.
        size: width and height of the picture in pixels, at least 300 by 200.

    Raises:
        ConfigError: too many curves or none, too small a picture, or values that a chart cannot show.
    """
    from PIL import Image, ImageDraw, ImageFont

    _require_curves(curves, size)
    plot = _Plot(curves, size)
    image = Image.new("RGB", (FINER * size[0], FINER * size[1]), PAPER)
    draw = ImageDraw.Draw(image)
    font, large = (ImageFont.load_default(FINER * points) for points in (13, 15))

    def text(at: tuple[float, float], words: str, anchor: str, font: Any = font) -> None:
        draw.text(_finer(at), words, TEXT, font, anchor)

    def line(points: list[tuple[float, float]], colour: tuple[int, int, int], width: int) -> None:
        draw.line([_finer(point) for point in points], colour, FINER * width, "curve")

    for x in plot.x_ticks:
        line([(plot.column(x), plot.bottom), (plot.column(x), TOP)], FRAME, 1)
        text((plot.column(x), plot.bottom + 6), f"{x:g}", "mt")
    for y in plot.y_ticks:
        line([(LEFT, plot.row(y)), (plot.right, plot.row(y))], FRAME, 1)
        text((LEFT - 8, plot.row(y)), f"{y:.3g}", "rm")
    text(((LEFT + plot.right) / 2, TOP / 2), title, "mm", large)
    text(((LEFT + plot.right) / 2, size[1] - 6), x_label, "mb")
    for number, ((name, (xs, ys)), colour) in enumerate(zip(curves.items(), COLOURS, strict=False)):
        line([(plot.column(x), plot.row(y)) for x, y in zip(xs, ys, strict=True)], colour, 3)
        middle = TOP + 18 + 20 * number
        text((plot.right - 54, middle), name, "rm")
        line([(plot.right - 46, middle), (plot.right - 12, middle)], colour, 3)
    return np.asarray(image.reduce(FINER), np.uint8)


class _Plot:
    """The map from values to pixels, and the ticks of both axes."""

    def __init__(self, curves: Mapping[str, Curve], size: tuple[int, int]) -> None:
        self.right, self.bottom = size[0] - RIGHT, size[1] - BOTTOM
        self.end = max(max(xs) for xs, _ in curves.values()) or 1.0
        low, high = min(min(ys) for _, ys in curves.values()), max(max(ys) for _, ys in curves.values())
        self.low, self.high = math.log10(low) - 0.03, math.log10(high) + 0.03
        self.x_ticks = [x for x in steps(0, self.end) if x <= self.end]
        self.y_ticks = levels(10**self.low, 10**self.high)

    def column(self, x: float) -> float:
        return LEFT + (self.right - LEFT) * x / self.end

    def row(self, y: float) -> float:
        return self.bottom - (self.bottom - TOP) * (math.log10(y) - self.low) / (self.high - self.low)


def _finer(at: tuple[float, float]) -> tuple[float, float]:
    return FINER * at[0], FINER * at[1]


def _require_curves(curves: Mapping[str, Curve], size: tuple[int, int]) -> None:
    if not 1 <= len(curves) <= len(COLOURS):
        raise ConfigError(f"{len(curves)} curves in one picture: give 1 to {len(COLOURS)}")
    if size[0] < 300 or size[1] < 200:
        raise ConfigError(f"a picture of {size[0]} by {size[1]} pixels is too small: give at least 300 by 200")
    for name, (xs, ys) in curves.items():
        if len(xs) != len(ys) or len(xs) < 2:
            raise ConfigError(f"{name} has {len(xs)} x and {len(ys)} y: give equal numbers, at least 2")
        if any(not math.isfinite(value) for value in (*xs, *ys)) or min(ys) <= 0:
            raise ConfigError(f"{name} has values that a logarithmic chart cannot show: give finite y above 0")
        if min(xs) < 0 or any(a > b for a, b in pairwise(xs)):
            raise ConfigError(f"{name} has x that fall or are below 0: give them in order")
