"""Parameters of our U-Net as modules of Torch have them, (out, in, …) where ours are (…, in, out), and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from tinyddpm.exchange.arrays import HostArray

KINDS = {"w": "weight", "b": "bias", "scale": "weight", "shift": "bias", "table": "weight"}
"""Parameters of a layer, by our names and Torch's."""

MOST = 2**20
"""No size, number of channels or of classes goes beyond it."""

BLOCK = re.compile(r"(down|up|middle)(?:_(\d+))?/(block|attention|halve|double)(?:_(\d+))?(?:/(\w+))?")
"""A layer in a block: the way, the level, the block with its number, and what it is there."""


def to_theirs(path: str, array: HostArray, options: Mapping[str, Any]) -> HostArray:
    """Return a parameter of ours as theirs: a shortcut is a 1×1 convolution.

    Args:
        path: ours.
        array: as our U-Net has it.
        options: of our U-Net.
    """
    if not path.endswith("/w"):
        return array
    array = _mirrored(path, array, options)
    axes = (array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
    turned = np.transpose(array, axes)
    return turned[:, :, None, None] if path.endswith("/shortcut/w") else turned


def to_ours(path: str, array: HostArray, options: Mapping[str, Any], swapped: bool) -> HostArray:
    """Return a parameter of theirs as ours: a convolution that reads one pixel is a matrix.

    Args:
        path: ours.
        array: as they have it.
        options: of our U-Net.
        swapped: whether their sinusoids of t begin with the cosines, which ours end with.
    """
    if not path.endswith("/w"):
        return array
    if prod(array.shape[2:]) == 1:
        array = array.reshape(array.shape[:2])
    array = _mirrored(path, np.transpose(array, (*range(2, array.ndim), 1, 0)), options)
    return np.roll(array, len(array) // 2, axis=0) if swapped and path == "time/dense_1/w" else array


def _mirrored(path: str, array: HostArray, options: Mapping[str, Any]) -> HostArray:
    """Return the weights of a convolution down the other way round, where that is how they are stored."""
    around = path.endswith("/halve/w") and options["halving"] == "around"
    return np.flip(array, axis=(0, 1)) if around else array
