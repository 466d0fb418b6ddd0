"""Features without a network: the pixels of images, the coordinates of points."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Backend
from tinyddpm.errors import DataError
from tinyddpm.metrics.base import Seen, require_images


class Pixels:
    """The values of all pixels and channels of an image, scaled to [0, 1]."""

    description = "pixels from 0 to 1"
    resize = "none"

    def __init__(self, backend: Backend) -> None:
        pass

    def __call__(self, samples: NDArray[Any]) -> Seen:
        """Return float32 (n, H·W·C)."""
        require_images(samples, "pixels")
        return Seen(np.divide(samples.reshape(len(samples), -1), 255, dtype=np.float32))


class Coordinates:
    """The coordinates of a point."""

    description = "coordinates of points"
    resize = "none"

    def __init__(self, backend: Backend) -> None:
        pass

    def __call__(self, samples: NDArray[Any]) -> Seen:
        """Return the points, float32 (n, D)."""
        if samples.ndim != 2 or samples.dtype.kind != "f":
            raise DataError(
                f"features 'coordinates' need points, not {samples.dtype} of shape {samples.shape}: "
                "choose others, such as pixels for images"
            )
        return Seen(samples.astype(np.float32))
