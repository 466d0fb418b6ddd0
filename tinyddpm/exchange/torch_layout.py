"""Conversion of parameters between our U-Net's layout (…, in, out) and that of Torch's modules (out, in, …)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from tinyddpm.exchange.arrays import HostArray

KINDS = {"w": "weight", "b": "bias", "scale": "weight", "shift": "bias", "table": "weight"}
"""Names of a layer's parameters: ours and Torch's."""

MOST = 2**20
"""Largest accepted size, number of channels or number of classes."""

BLOCK = re.compile(r"(down|up|middle)(?:_(\d+))?/(block|attention|halve|double)(?:_(\d+))?(?:/(\w+))?")
"""Path of a layer in a block: way, level, kind of block and its number, and name of the layer in the block."""


def to_theirs(path: str, array: HostArray, options: Mapping[str, Any]) -> HostArray:
    """Convert our parameter to Torch's layout. A shortcut becomes a 1×1 convolution.

    Args:
        path: our path.
        array: our array.
        options: options of our U-Net.
    """
    if not path.endswith("/w"):
        return array
    array = _mirrored(path, array, options)
    axes = (array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
    turned = np.transpose(array, axes)
    return turned[:, :, None, None] if path.endswith("/shortcut/w") else turned


def to_ours(path: str, array: HostArray, options: Mapping[str, Any], swapped: bool) -> HostArray:
    """Convert a parameter from Torch's layout to ours. A 1×1 convolution becomes a matrix.

    Args:
        path: our path.
        array: their array.
        options: options of our U-Net.
        swapped: whether their time embedding has the cosines before the sines. Ours has the sines first.
    """
    if not path.endswith("/w"):
        return array
    if prod(array.shape[2:]) == 1:
        array = array.reshape(array.shape[:2])
    array = _mirrored(path, np.transpose(array, (*range(2, array.ndim), 1, 0)), options)
    return np.roll(array, len(array) // 2, axis=0) if swapped and path == "time/dense_1/w" else array


def _mirrored(path: str, array: HostArray, options: Mapping[str, Any]) -> HostArray:
    """Flip the kernel of a downsampling convolution if our U-Net stores it mirrored, as for halving "around"."""
    around = path.endswith("/halve/w") and options["halving"] == "around"
    return np.flip(array, axis=(0, 1)) if around else array
