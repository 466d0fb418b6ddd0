"""Tables of pixels in `.csv`, a form in which MNIST and similar sets are shared: each row a square image and its label.

The label is the column that the first line names `label`, `labels`, `class`, `target` or `y`. Without names, it is the
first column if the others make a square, unless the last has fewer different values, as labels have. Images are grey,
or have three colours that the names of the columns tell apart, pixel by pixel (`r0`, `g0`, `b0`, `r1`, …) or colour by
colour (`red_0`, `red_1`, …).
"""

from __future__ import annotations

import re
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
COLOUR = re.compile("(?<![a-z])(r|g|b|red|green|blue)(?![a-z])")
"""Matches a colour in the name of a column."""
LEAST_SIDE = 4
"""Smallest side of an image in pixels: rows of fewer numbers are more likely something else."""


def open_table(path: Path, levels: Levels | None = None) -> Dataset:
    """Return the images of a table of pixels, with their labels if it has any.

    Raises:
        DataError: the file holds no such table, or is too large for memory.
    """
    names, rows = _read(path)
    where = next((k for k, name in enumerate(names) if name.lower() in LABELS), None)
    if not names and _side(rows.shape[1] - 1):
        where = _label_of(rows, path)
    pixels = rows if where is None else np.delete(rows, where, axis=1)
    images = _as_images(pixels, [name.lower() for k, name in enumerate(names) if k != where], path)
    if levels is None and images.min() >= 0 and images.max() <= BYTES.white and (images == np.rint(images)).all():
        images = images.astype(np.uint8)
    else:
        images, levels = eight_bits(images, levels, str(path)), BYTES
    return levelled(ArrayDataset(images, None if where is None else rows[:, where], name=str(path)), levels)


def _label_of(rows: NDArray[Any], path: Path) -> int:
    """Return the column of the labels of a table without names, the first.

    Raises:
        DataError: the last column is as likely to be that of the labels.
    """
    first, last = (len(np.unique(rows[:, k])) for k in (0, -1))
    if last > 1 and (last < first or first == 1):
        raise DataError(
            f"{path}: the label may be the first column, of {first} different values, or the last, of {last}: name the"
            " columns in the first line, one of them label"
        )
    return 0


def _as_images(pixels: NDArray[Any], names: list[str], path: Path) -> NDArray[Any]:
    """Return rows of pixels, (n, columns), as images (n, H, W) or (n, H, W, 3).

    Raises:
        DataError: the rows are no square images, or the order of their columns is not certain.
    """
    count = pixels.shape[1]
    if side := _side(count):
        _check_order(names, path)
        return pixels.reshape(-1, side, side)
    side = 0 if count % 3 else _side(count // 3)
    if not side:
        raise DataError(
            f"{path}: rows of {count} numbers are no square images, grey or of three colours: save them as `images`"
            " (n, H, W[, C]) or `points` (n, D) in an .npz"
        )
    columns: dict[str, list[int]] = {"r": [], "g": [], "b": []}
    for k, name in enumerate(names):
        for colour in COLOUR.findall(name):
            columns[colour[0]].append(k)
    places = [[COLOUR.sub("", names[k]) for k in of_colour] for of_colour in columns.values()]
    if places != [places[0]] * 3 or len(places[0]) != side * side:
        raise DataError(
            f"{path}: rows of {count} numbers may be {side}x{side} pixels of three colours, pixel by pixel or colour by"
            " colour: name each column by colour and pixel, such as r0, in the first line"
        )
    _check_order(places[0], path)
    return pixels[:, np.transpose([*columns.values()])].reshape(-1, side, side, 3)


def _check_order(names: list[str], path: Path) -> None:
    """Raise a DataError if the pixels are sorted as texts, where 10 comes before 2."""
    numbers = [tuple(map(int, re.findall("[0-9]{1,9}", name))) for name in names]
    wrong = next((k for k in range(1, len(names)) if () < numbers[k] < numbers[k - 1]), None)
    if wrong:
        raise DataError(
            f"{path}: the column {names[wrong]!r} comes after {names[wrong - 1]!r}: put the pixels in order, or leave"
            " the names out"
        )


def _side(count: int) -> int:
    """Return the side of a square of `count` pixels, 0 if there is none of at least `LEAST_SIDE`."""
    side = isqrt(count)
    return side if side * side == count and side >= LEAST_SIDE else 0


def _read(path: Path) -> tuple[list[str], NDArray[Any]]:
    """Return the names in the first line, [] if it holds numbers, and all rows of numbers, float32.

    A first line that counts the columns from 0 holds no numbers of an image.
    """
    check_memory(2 * path.stat().st_size, str(path))  # a number takes at least two bytes of text, and four in memory
    try:
        with path.open(encoding="utf-8-sig", newline="") as file, warnings.catch_warnings(action="error"):
            names = [cell.strip(' "\r\n') for cell in file.readline().split(",")]
            if all(map(_is_number, names)):
                if names != [str(k) for k in range(len(names))]:  # pandas calls columns so that have no names
                    file.seek(0)
                names = []
            rows = np.loadtxt(file, np.float32, delimiter=",", comments=None, quotechar='"', ndmin=2)
    except (ValueError, UserWarning) as cause:
        raise DataError(
            f"{path} is no table of numbers ({str(cause).splitlines()[0]}): save it anew, as UTF-8"
        ) from cause
    if names and len(names) != rows.shape[1]:
        raise DataError(f"{path}: {len(names)} names in the first line, and {rows.shape[1]} numbers in each below")
    return names, rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
