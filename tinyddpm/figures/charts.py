"""Charts as data: lines on two axes, which the terminal, SVG and matplotlib draw alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyddpm.figures.axes import Axis
from tinyddpm.figures.lines import Curve


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: what it is of.
        points: x, which never falls, and y of at least one point.
        number: which of a chart's lines look alike, from 0 on; those of one run do.
        faint: whether it stands behind another of its number, as raw values behind their mean.
    """

    name: str
    points: Curve
    number: int = 0
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines with a title, and what is on the axis below; a logarithmic axis becomes linear where it cannot be."""

    title: str
    lines: tuple[Line, ...]
    below: str = "step"
    log_x: bool = False
    log_y: bool = False

    def axes(self) -> tuple[Axis, Axis]:
        """Return the axis below and the one at the side, with room for every point."""
        x = Axis.over(self._values(0), self.log_x)
        return x, Axis.over(self._values(1), self.log_y)

    def _values(self, which: int) -> Iterator[float]:
        return (value for line in self.lines for value in line.points[which])
