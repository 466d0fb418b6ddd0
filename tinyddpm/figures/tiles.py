"""Tiles: samples as pictures of the same size, arranged in rows and columns of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.errors import DataError
from tinyddpm.figures.images import Pixels
from tinyddpm.figures.points import point_picture
from tinyddpm.model.sampling import check_finite
from tinyddpm.ops.images import from_model

Array = np.ndarray[Any, Any]


def tiles_of(x: Array) -> Pixels:
    """Return a model's samples as pictures, uint8 (k, H, W, C): one per image, or one for all points together.

    Args:
        x: images (n, H, W, C) in [−1, 1], or points (n, 1) or (n, 2).

    Raises:
        DataError: images do not have one or three channels, or points have more than two dimensions.
        DrawingError: a sample is not finite.
    """
    check_finite(x)
    if x.ndim == 2:
        return point_picture(x)[None]
    if x.shape[-1] not in (1, 3):
        raise DataError(f"images of {x.shape[-1]} channels cannot be shown in a figure: give some with 1 or 3")
    pixels: Pixels = from_model(x)
    return pixels


def in_columns(columns: Sequence[Array]) -> Pixels:
    """Return tiles (k, columns, H, W, C): one row per sample, one column per element of `columns`, such as moments."""
    return np.stack([tiles_of(x) for x in columns], axis=1)


def forward_tiles(process: GaussianProcess, x_0: Array, times: Sequence[int], eps: Array) -> Pixels:
    """Return tiles (k, 1 + len(times), H, W, C) of the figure `forward`: x_0, then x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) eps.

    Args:
        process: a process on NumPy.
        x_0: images (k, H, W, C) in [−1, 1], or points (n, 1) or (n, 2), which make one row.
        times: the times to show, 0-based.
        eps: standard normal noise of x_0's shape, the same at all times.

    Raises:
        ConfigError: a time is outside the chain.
        DataError: the samples cannot be shown as pictures.
    """
    return in_columns([x_0, *(process.q_sample(x_0, t, eps) for t in times)])
