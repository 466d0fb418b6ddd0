"""Images of one size: cropped in the middle to the wanted ratio, then resized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data.base import Dataset, Samples
from tinyddpm.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


def resized(dataset: Dataset, image_size: tuple[int, int] | None) -> Dataset:
    """Return `dataset` with its images at (H, W); itself if no size is given or they have it already.

    Raises:
        DataError: these are points, not images.
    """
    if image_size is None or dataset.shape[:2] == image_size:
        return dataset
    if len(dataset.shape) != 3:
        raise DataError(f"{dataset.description}: points have no image size: leave out --image-size")
    return Resized(dataset, image_size)


def fit(image: Image, image_size: tuple[int, int]) -> Image:
    """Return the middle of `image` at (H, W).

    Lanczos's filter, which Pillow widens as it shrinks, so that it averages over all the pixels that become one.
    """
    from PIL import Image, ImageOps

    height, width = image_size
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


class Resized:
    """A `Dataset` whose images are cropped and resized to (H, W) as they are read, each channel by itself."""

    def __init__(self, dataset: Dataset, image_size: tuple[int, int]) -> None:
        self._dataset = dataset
        self.shape: tuple[int, ...] = (*image_size, dataset.shape[2])
        self._size = image_size
        self.classes = dataset.classes
        self.labels = dataset.labels
        self.columns = dataset.columns
        self.description = f"{dataset.description}, resized to {image_size[0]}x{image_size[1]}"

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, indices: NDArray[np.integer[Any]]) -> Samples:
        """Return the resized images at `indices`, uint8 (n, H, W, C)."""
        from PIL import Image

        images = self._dataset.read(indices)
        out = np.empty((len(images), *self.shape), np.uint8)
        for i, image in enumerate(images):
            for c in range(self.shape[2]):
                channel = Image.fromarray(np.ascontiguousarray(image[..., c]))
                out[i, ..., c] = np.asarray(fit(channel, self._size))
        return out
