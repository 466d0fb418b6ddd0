"""Bilinear resizing without antialiasing, in the two versions in use for Inception features."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from tinyddpm.backend import Array


def resize_bilinear(images: Array, size: tuple[int, int], half_pixels: bool) -> Array:
    """Return images resized to another size by bilinear interpolation.

    Args:
        images: (N, H, W, C), floating.
        size: (H', W').
        half_pixels: whether pixel centres lie at half-integers, so that the outer edges of both images agree, as in
            PyTorch (`align_corners=False`); if not, they lie at integers, as in TensorFlow 1, which shifts images up
            and left by up to half a pixel.

    Returns:
        (N, H', W', C).
    """
    xp = array_namespace(images)
    for axis in (2, 1):
        low, high, share = (
            xp.asarray(values, device=device(images))
            for values in _places(images.shape[axis], size[axis - 1], half_pixels)
        )
        share = xp.reshape(xp.astype(share, images.dtype), (-1, *(1,) * (3 - axis)))
        a, b = xp.take(images, low, axis=axis), xp.take(images, high, axis=axis)
        images = a + (b - a) * share
    return images


def _places(old: int, new: int, half_pixels: bool) -> tuple[np.ndarray[Any, Any], ...]:
    """Return, for each new pixel, the two old pixels beside it and the weight of the second, computed in float32.

    Positions before the first pixel or after the last are clamped to it.
    """
    scale, shift = np.float32(old / new), np.float32(0.5 if half_pixels else 0)
    at = np.maximum((np.arange(new, dtype=np.float32) + shift) * scale - shift, np.float32(0))
    low = at.astype(np.int64)
    return low, np.minimum(low + 1, old - 1), at - low.astype(np.float32)
