"""Figures of an evaluation: metrics over the varied setting, and drawn samples above their nearest training samples."""

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
    """Write a figure with a chart for each metric: its values over the varied setting, and its floor.

    Args:
        varied: name of the setting, such as "guidance".
        values: values of the setting. Texts are evenly spaced.
        numbers: each metric's number at each value.
        floor: each metric between two halves of the real samples, drawn as a dashed line.
        path: the file to write, PNG or SVG.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
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
    """Return one picture, uint8 (H', W', C): a row of drawn images (n, H, W, C) above a row of training images."""
    return grid(np.concatenate([drawn, training]), columns=len(drawn))
