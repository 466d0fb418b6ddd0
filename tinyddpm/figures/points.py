"""Points in one and two dimensions as pictures, drawn without a plotting library."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import DataError
from tinyddpm.figures.images import WHITE, Pixels

INK = np.array([31, 78, 140])
OPACITY = 0.6

SIZE = 256
"""Width and height of a picture of points, in pixels."""

LOW, HIGH = -3.0, 3.0
"""The range of both axes: it shows data of unit variance and the noise it comes from."""

BAR = 4
"""Width of a bar of a histogram, in pixels."""

DISC = [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]
"""Pixels of a point, as offsets from its centre."""


def scatter(points: NDArray[np.floating]) -> Pixels:
    """Return `points` (n, 2) as a picture, uint8 (SIZE, SIZE, 3): blue on white, darker where points overlap.

    Args:
        points: x and y; y points up. Points out of range and points that are not finite are omitted.

    Raises:
        DataError: `points` has another shape.
    """
    if points.ndim != 2 or points.shape[1] != 2:
        raise DataError(f"cannot draw points of shape {points.shape}: they must be (n, 2)")
    counts, _, _ = np.histogram2d(-points[:, 1], points[:, 0], SIZE, [(-HIGH, -LOW), (LOW, HIGH)])  # rows go down
    padded = np.pad(counts, 1)
    dots = np.sum([padded[1 + y : 1 + y + SIZE, 1 + x : 1 + x + SIZE] for y, x in DISC], axis=0)
    paper = (1 - OPACITY) ** dots[..., None]  # share of white after that many coats of ink
    picture: Pixels = np.rint(paper * WHITE + (1 - paper) * INK).astype(np.uint8)
    return picture


def histogram(points: NDArray[np.floating]) -> Pixels:
    """Return a histogram of `points` (n, 1), uint8 (SIZE, SIZE, 3): blue on white, the highest bar reaches the top.

    Args:
        points: numbers. Those out of range and those that are not finite are omitted.

    Raises:
        DataError: `points` has another shape.
    """
    if points.ndim != 2 or points.shape[1] != 1:
        raise DataError(f"cannot draw points of shape {points.shape} as a histogram: they must be (n, 1)")
    counts, _ = np.histogram(points[np.isfinite(points)], SIZE // BAR, (LOW, HIGH))
    heights = np.rint(counts / max(1, counts.max()) * SIZE).repeat(BAR)
    picture: Pixels = np.full((SIZE, SIZE, 3), WHITE, np.uint8)
    picture[SIZE - np.arange(SIZE)[:, None] <= heights] = INK
    return picture


def point_picture(points: NDArray[np.floating]) -> Pixels:
    """Return a histogram of points (n, 1), or a scatter of points (n, 2).

    Raises:
        DataError: the points have another dimension.
    """
    if points.ndim != 2 or points.shape[1] > 2:
        raise DataError(f"cannot draw points of shape {points.shape}: they must be (n, 1) or (n, 2); save them as .npz")
    return histogram(points) if points.shape[1] == 1 else scatter(points)
