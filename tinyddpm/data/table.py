"""Tables of pixels, `.csv`, as MNIST and its kin are handed around: a square grey image in each row, and its label.

The label is the column that the first line calls `label`, `class`, `target` or `y`; without names, it is the first
column where the others make a square.
"""

from __future__ import annotations

import warnings
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data.base import ArrayDataset, Dataset, check_memory
from tinyddpm.data.levels import BYTES, Levels, eight_bits, levelled
from tinyddpm.errors import DataError

LABELS = ("label", "labels", "class", "target", "y")
LEAST_SIDE = 4
"""Of an image: fewer numbers in a row are more likely something else."""


def open_table(path: Path, levels: Levels | None = None) -> Dataset:
    """Return the images of a table of pixels, with their labels if it has them.

    Raises:
        DataError: the file holds no such table, or is too large for memory.
    """
    names, rows = _read(path)
    where = next((k for k, name in enumerate(names) if name.lower() in LABELS), None)
    if not names and _side(rows.shape[1] - 1):
        where = 0
    pixels = rows if where is None else np.delete(rows, where, axis=1)
    side = _side(pixels.shape[1])
    if not side:
        raise DataError(
            f"{path}: rows of {pixels.shape[1]} numbers are no square grey images: save them as `images` (n, H, W[, C])"
            " or `points` (n, D) in an .npz"
        )
    images = pixels.reshape(-1, side, side)
    if images.min() >= 0 and images.max() <= BYTES.white and (images == np.rint(images)).all():
        images = images.astype(np.uint8)
    else:
        images, levels = eight_bits(images, levels, str(path)), BYTES
    return levelled(ArrayDataset(images, None if where is None else rows[:, where], name=str(path)), levels)


def _side(count: int) -> int:
    """Return the side of a square of so many pixels, 0 if there is none."""
    side = isqrt(count)
    return side if side * side == count and side >= LEAST_SIDE else 0


def _read(path: Path) -> tuple[list[str], NDArray[Any]]:
    """Return the names in the first line, none if it holds numbers, and all rows of numbers, float32."""
    check_memory(2 * path.stat().st_size, str(path))  # a number is two bytes of text at least, and four in memory
    try:
        with path.open(encoding="utf-8-sig", newline="") as file, warnings.catch_warnings(action="error"):
            names = [cell.strip(' "\r\n') for cell in file.readline().split(",")]
            if all(map(_is_number, names)):
                names = []
                file.seek(0)
            rows = np.loadtxt(file, np.float32, delimiter=",", comments=None, quotechar='"', ndmin=2)
    except (ValueError, UserWarning) as cause:
        raise DataError(
            f"{path} is no table of numbers ({str(cause).splitlines()[0]}): save it anew, as UTF-8"
        ) from cause
    return names, rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
