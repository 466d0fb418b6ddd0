"""Resizing images: cropped around the middle to the wanted ratio, then scaled."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data.base import Dataset, Samples, check_memory
from tinyddpm.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


SMALLER = "choose a smaller --image-size, or take fewer images"
"""The advice where resized images would not fit into memory."""


def resized(dataset: Dataset, image_size: tuple[int, int] | None) -> Dataset:
    """Return a data set of the same images at (H, W); `dataset` itself if that is None or their size already.

    Raises:
        DataError: the samples are points, not images, or one would exceed the memory limit.
    """
    if image_size is None or dataset.shape[:2] == image_size:
        return dataset
    check_memory(math.prod(image_size) * dataset.shape[-1], f"{dataset.description}, an image of it", SMALLER)
    if len(dataset.shape) != 3:
        raise DataError(f"{dataset.description}: points have no image size: leave out --image-size")
    return Resized(dataset, image_size)


def fit(image: Image, image_size: tuple[int, int]) -> Image:
    """Return the middle of `image`, scaled to (H, W) by Lanczos's filter.

    Pillow widens the filter when it shrinks an image, so that an output pixel averages over all pixels it replaces.
    """
    from PIL import Image, ImageOps

    height, width = image_size
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def changes(sizes: Collection[tuple[int, int]], image_size: tuple[int, int]) -> str:
    """Return a description of what `fit` does to images of these sizes (H, W); "" if they have the wanted size.

    An example is "cropped and shrunk from 128x136 to 32x32".
    """
    H, W = image_size
    scales = [max(H / h, W / w) for h, w in sizes]
    done = {
        "cropped": any(h * W != w * H for h, w in sizes),
        "shrunk": min(scales) < 1,
        "enlarged": max(scales) > 1,
    }
    words = " and ".join(word for word, is_done in done.items() if is_done)
    (h, w), *_ = ordered = sorted(sizes, key=math.prod)
    before = f"{h}x{w}"
    if len(ordered) > 1:
        h, w = ordered[-1]
        before = f"{len(ordered)} sizes, {before} to {h}x{w},"
    return words and f"{words} from {before} to {H}x{W}"


KEPT = 2**30
"""Largest size in bytes of resized images that are kept in memory; larger data sets are resized at every reading."""

AT_ONCE = 2**24
"""Bytes of images read at a time for resizing, though at least one image."""


class Resized:
    """A `Dataset` of the images of another, `source`, cropped and resized to (H, W) when they are first read."""

    def __init__(self, dataset: Dataset, image_size: tuple[int, int]) -> None:
        self.source = dataset
        self.shape: tuple[int, ...] = (*image_size, dataset.shape[2])
        self._size = image_size
        self.classes = dataset.classes
        self.labels = dataset.labels
        self.columns = dataset.columns
        height, width = dataset.shape[:2]
        self.description = f"{dataset.description}, {changes([(height, width)], image_size)}"
        keep = len(dataset) * math.prod(self.shape) <= KEPT
        self._kept = np.empty((len(dataset), *self.shape), np.uint8) if keep else None
        self._is_kept = np.zeros(len(dataset), bool)

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: NDArray[np.integer[Any]]) -> Samples:
        """Return the resized images at `indices`, uint8 (n, H, W, C)."""
        if self._kept is None:
            return self._resize(indices)
        once = np.unique(indices)
        new = once[~self._is_kept[once]]
        if len(new):
            self._kept[new] = self._resize(new)
            self._is_kept[new] = True
        return np.asarray(self._kept[indices])

    def _resize(self, indices: NDArray[np.integer[Any]]) -> Samples:
        out = np.empty((len(indices), *self.shape), np.uint8)
        count = max(1, AT_ONCE // math.prod(self.source.shape))
        for begin in range(0, len(indices), count):
            self._resize_at_once(indices[begin : begin + count], out[begin : begin + count])
        return out

    def _resize_at_once(self, indices: NDArray[np.integer[Any]], out: Samples) -> None:
        from PIL import Image

        for resized_image, image in zip(out, self.source.read(indices), strict=True):
            for c in range(self.shape[2]):
                channel = Image.fromarray(np.ascontiguousarray(image[..., c]))
                resized_image[..., c] = np.asarray(fit(channel, self._size))
