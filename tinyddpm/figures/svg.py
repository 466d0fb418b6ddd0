"""Charts as SVG elements for a page, whose style sheet colours them.

A line has the CSS classes `line`, `n0` to `n5` by its number, and `faint` if it is; its points have the class `dot`.
Grid lines have the class `grid`, texts the class `tick`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyddpm.figures.charts import Chart, Line
from tinyddpm.figures.lines import Curve
from tinyddpm.figures.markup import Element, node

WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 10, 40
"""Margins around the plot, in units of the viewBox."""

MOST_POINTS = 800
FEW_POINTS = 24
"""Most points of a line; and most points up to which each has a dot."""


def svg_chart(chart: Chart) -> Element:
    """Return a chart as an `svg` element, with a description for screen readers."""
    below, side = chart.axes()

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * below.place(x),
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * side.place(y),
        )

    def path(points: Sequence[tuple[float, float]], classes: str) -> Element:
        steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        return node("path", {"class": classes, "d": f"M{steps}"})

    drawn = []
    for tick in below.ticks:
        x, foot = at(tick, side.low)
        drawn.append(path([(x, foot), (x, TOP)], "grid"))
        drawn.append(_text(x, foot + 16, "middle", _short(tick)))
    for tick in side.ticks:
        x, y = at(below.low, tick)
        drawn.append(path([(x, y), (WIDTH - RIGHT, y)], "grid"))
        drawn.append(_text(x - 6, y + 4, "end", _short(tick)))
    drawn.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "middle", chart.below))
    for line in sorted(chart.lines, key=lambda line: not line.faint):  # faint ones first
        points = [at(x, y) for x, y in zip(*thinned(line.points, MOST_POINTS), strict=True)]
        classes = f"line n{line.number}" + (" faint" if line.faint else "")
        drawn.append(path(points, classes))
        if len(points) <= FEW_POINTS:
            drawn += [_dot(x, y, line.number) for x, y in points]
    told = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "class": "chart", "aria-label": described(chart)}
    return node("svg", told, drawn)


def swatch(number: int) -> Element:
    """Return a short sample of the line of this number for a legend."""
    line = node("path", {"class": f"line n{number}", "d": "M1 6 L35 6"})
    return node("svg", {"viewBox": "0 0 36 12", "class": "swatch", "aria-hidden": "true"}, line)


def described(chart: Chart) -> str:
    """Describe a chart in words: its title and the first and last point of each line."""
    return f"{chart.title} by {chart.below}. " + " ".join(map(_course, (x for x in chart.lines if not x.faint)))


def _course(line: Line) -> str:
    xs, ys = line.points
    return f"{line.name}: from {number(ys[0])} at {number(xs[0])} to {number(ys[-1])} at {number(xs[-1])}."


def number(value: float) -> str:
    """Format a number with four significant digits; integers below 10⁹ with all digits."""
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:,.4g}"


def thinned(curve: Curve, most: int) -> Curve:
    """Reduce a curve to at most `most` points: both ends, and the lowest and highest point of each interval."""
    xs, ys = curve
    if len(xs) <= most:
        return curve
    kept, parts = {0, len(xs) - 1}, most // 2 - 1
    for part in range(parts):
        stretch = range(part * len(xs) // parts, (part + 1) * len(xs) // parts)
        kept |= {min(stretch, key=ys.__getitem__), max(stretch, key=ys.__getitem__)}
    return [xs[i] for i in sorted(kept)], [ys[i] for i in sorted(kept)]


def _short(value: float) -> str:
    """Format a tick's number."""
    return f"{value / 1000:,g}k" if abs(value) >= 10_000 else f"{value:,.6g}"


def _text(x: float, y: float, anchor: str, words: str) -> Element:
    return node("text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": "tick"}, words)


def _dot(x: float, y: float, of: int) -> Element:
    return node("circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "2.5", "class": f"dot n{of}"})
