"""What an evaluation is drawn as: numbers over what was varied, and drawn samples above what they are nearest to."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from tinyddpm.figures.images import Pixels, grid
from tinyddpm.figures.marks import Mark
from tinyddpm.figures.style import QUIET, drawing


def draw_sweep(
    varied: str,
    values: Sequence[float | str],
    numbers: Mapping[str, Sequence[float]],
    floor: Mapping[str, float],
    path: str | os.PathLike[str],
    mark: Mark | None = None,
) -> None:
    """Write a figure with a chart for each number: how it depends on what was varied, and its floor.

    Args:
        varied: what was, such as "guidance".
        values: what it was set to; texts stand at equal distances.
        numbers: what was measured at each value, by name.
        floor: the same between two halves of the real samples; a dashed line.
        path: the file to write, PNG or SVG.
        mark: what made it, kept in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file is to be of another format.
        DataError: the file cannot be written.
    """
    columns = min(3, len(numbers))
    rows = math.ceil(len(numbers) / columns)
    with drawing(path, (4 * columns, 3 * rows), mark) as figure:
        for place, (name, found) in enumerate(numbers.items(), 1):
            chart = figure.add_subplot(rows, columns, place)
            chart.plot(values, found, marker="o", label="drawn")
            if name in floor:
                chart.axhline(floor[name], linestyle="--", color=QUIET, label="real")
            chart.set(title=name, xlabel=varied)
            chart.legend()


def pairs_picture(drawn: Pixels, training: Pixels) -> Pixels:
    """Return one picture, uint8 (H', W', C): drawn images (n, H, W, C) in a row, below each its training image."""
    return grid(np.concatenate([drawn, training]), columns=len(drawn))
