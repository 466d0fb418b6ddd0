"""Points in the plane as pictures, without a plotting library."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import ConfigError, DataError
from tinyddpm.figures.images import WHITE, Pixels

INK = np.array([31, 78, 140])
OPACITY = 0.6

DISC = [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]
"""The pixels of one point, from its centre."""


def scatter(points: NDArray[np.floating], size: int = 256, limits: tuple[float, float] = (-3.0, 3.0)) -> Pixels:
    """Return `points` (n, 2) as a picture, uint8 (size, size, 3): blue on white, darker where points lie on points.

    Args:
        points: x and y; y points up. Points beyond the limits are left out, and so are those not finite.
        size: sides of the picture in pixels.
        limits: the range of both axes. The default shows data of unit variance and the noise it comes from.

    Raises:
        DataError: `points` has another shape.
        ConfigError: `size` or `limits` is out of range.
    """
    if points.ndim != 2 or points.shape[1] != 2:
        raise DataError(f"cannot draw points of shape {points.shape}: they must be (n, 2)")
    low, high = limits
    if size < 8 or not low < high:
        raise ConfigError(f"size is {size} and limits are {limits}: give at least 8 pixels and a rising range")
    counts, _, _ = np.histogram2d(-points[:, 1], points[:, 0], size, [(-high, -low), (low, high)])  # rows go down
    padded = np.pad(counts, 1)
    dots = np.sum([padded[1 + y : 1 + y + size, 1 + x : 1 + x + size] for y, x in DISC], axis=0)
    paper = (1 - OPACITY) ** dots[..., None]  # what still shines through after that many coats of ink
    picture: Pixels = np.rint(paper * WHITE + (1 - paper) * INK).astype(np.uint8)
    return picture
