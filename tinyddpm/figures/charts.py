"""Charts as data: lines on two axes. The terminal, SVG and matplotlib all draw from this description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyddpm.figures.axes import Axis
from tinyddpm.figures.lines import Curve


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: name in the legend.
        points: x, non-decreasing, and y of at least one point.
        number: number of the line's style, from 0. Lines of the same run share it.
        faint: whether the line is drawn faintly behind the others, as raw values are behind their running mean.
    """

    name: str
    points: Curve
    number: int = 0
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines with a title and the label `below` of the x axis. Logarithmic axes become linear for values not above 0."""

    title: str
    lines: tuple[Line, ...]
    below: str = "step"
    log_x: bool = False
    log_y: bool = False

    def axes(self) -> tuple[Axis, Axis]:
        """Return the x and the y axis, which cover all points."""
        x = Axis.over(self._values(0), self.log_x)
        return x, Axis.over(self._values(1), self.log_y)

    def _values(self, which: int) -> Iterator[float]:
        return (value for line in self.lines for value in line.points[which])
