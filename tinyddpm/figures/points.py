"""Points in one and two dimensions as pictures, drawn without a plotting library."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import ConfigError, DataError
from tinyddpm.figures.images import WHITE, Pixels

INK = np.array([31, 78, 140])
OPACITY = 0.6

BAR = 4
"""Width of a bar of a histogram, in pixels."""

DISC = [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]
"""Pixels of a point, as offsets from its centre."""


def scatter(points: NDArray[np.floating], size: int = 256, limits: tuple[float, float] = (-3.0, 3.0)) -> Pixels:
    """Return `points` (n, 2) as a picture, uint8 (size, size, 3): blue on white, darker where points overlap.

    Args:
        points: x and y; y points up. Points beyond the limits and points that are not finite are omitted.
        size: width and height of the picture in pixels.
        limits: the range of both axes. The default shows data of unit variance and the noise it comes from.

    Raises:
        DataError: `points` has another shape.
        ConfigError: `size` or `limits` is out of range.
    """
    if points.ndim != 2 or points.shape[1] != 2:
        raise DataError(f"cannot draw points of shape {points.shape}: they must be (n, 2)")
    _require_range(size, limits)
    low, high = limits
    counts, _, _ = np.histogram2d(-points[:, 1], points[:, 0], size, [(-high, -low), (low, high)])  # rows go down
    padded = np.pad(counts, 1)
    dots = np.sum([padded[1 + y : 1 + y + size, 1 + x : 1 + x + size] for y, x in DISC], axis=0)
    paper = (1 - OPACITY) ** dots[..., None]  # share of white after that many coats of ink
    picture: Pixels = np.rint(paper * WHITE + (1 - paper) * INK).astype(np.uint8)
    return picture


def histogram(points: NDArray[np.floating], size: int = 256, limits: tuple[float, float] = (-3.0, 3.0)) -> Pixels:
    """Return a histogram of `points` (n, 1), uint8 (size, size, 3): blue on white, the highest bar reaches the top.

    Args:
        points: numbers. Those beyond the limits and those that are not finite are omitted.
        size: width and height of the picture in pixels; a bar is `BAR` pixels wide.
        limits: the range of the axis.

    Raises:
        DataError: `points` has another shape.
        ConfigError: `size` or `limits` is out of range.
    """
    if points.ndim != 2 or points.shape[1] != 1:
        raise DataError(f"cannot draw points of shape {points.shape} as a histogram: they must be (n, 1)")
    _require_range(size, limits)
    counts, _ = np.histogram(points[np.isfinite(points)], size // BAR, limits)
    heights = np.rint(counts / max(1, counts.max()) * size).repeat(BAR)
    picture: Pixels = np.full((size, size, 3), WHITE, np.uint8)
    picture[:, : len(heights)][size - np.arange(size)[:, None] <= heights] = INK
    return picture


def point_picture(points: NDArray[np.floating]) -> Pixels:
    """Return a histogram of points (n, 1), or a scatter of points (n, 2).

    Raises:
        DataError: the points have another dimension.
    """
    if points.ndim != 2 or points.shape[1] > 2:
        raise DataError(f"cannot draw points of shape {points.shape}: they must be (n, 1) or (n, 2); save them as .npz")
    return histogram(points) if points.shape[1] == 1 else scatter(points)


def _require_range(size: int, limits: tuple[float, float]) -> None:
    if size < 8 or not limits[0] < limits[1]:
        raise ConfigError(f"size is {size} and limits are {limits}: give at least 8 pixels and a rising range")
