"""Levels: the values of black and white in images, and the scaling of images to 0 to 255.

Levels are certain in these cases: uint8 is 0 to 255 if a value reaches 32; uint16 is 0 to 65535 if a value reaches
2¹⁴; floating pixels are 0 to 1 if their maximum is above 1/4, or −1 to 1 if their minimum is below −1/4 too; booleans
are black or white. Nothing else is certain: a 12-bit image in a 16-bit file, or a mask of 0 and 1, would become nearly
black. Such images are refused unless the user gives their levels.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data.base import Dataset, Samples
from tinyddpm.errors import ConfigError, DataError

LEAST_BYTE, LEAST_WORD = 2**5, 2**14
"""Smallest maximum of uint8 and of uint16 images for which the levels are certain."""
LOOKED_AT = 2**24
"""Largest number of values of a data set that are examined for its levels, in evenly spread images."""

AT_ONCE = 2**16
"""Number of values that are scaled at a time."""


class Levels(NamedTuple):
    """The value of black and the value of white."""

    black: float
    white: float


BYTES, WORDS, SHARES, SIGNED = Levels(0, 255), Levels(0, 65535), Levels(0, 1), Levels(-1, 1)


def parse_levels(text: str) -> Levels | None:
    """Return the levels in a text "BLACK:WHITE", such as "0:4095"; None for "", which stands for certain levels.

    Raises:
        ConfigError: the text is not of this form, or white is not above black.
    """
    if not text:
        return None
    number = r"\s*(-?[0-9]{1,15}(?:\.[0-9]{1,15})?)\s*"
    match = re.fullmatch(f"{number}:{number}", text, re.ASCII)
    if match is None or float(match[1]) >= float(match[2]):
        raise ConfigError(f"levels {text!r} are not BLACK:WHITE: give two rising numbers, such as 0:4095")
    return Levels(float(match[1]), float(match[2]))


def scaled(values: NDArray[Any], levels: Levels, name: str) -> NDArray[np.uint8]:
    """Return `values` as uint8 of the same shape, scaled from black at 0 to white at 255 and rounded to nearest.

    Raises:
        DataError: a value lies outside the levels, or is not finite, or the type of the values holds no such white.
    """
    black, white = levels
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise _not_finite(name)
    if white > _most(values.dtype):
        raise DataError(
            f"{name}: the images are {values.dtype}, of at most {_most(values.dtype):g}, and would be nearly black with"
            f" --levels {black:g}:{white:g}: give the values of their black and white, or leave it out"
        )
    if not (black <= low and high <= white):
        raise DataError(
            f"{name}: values from {low:g} to {high:g} are not all in --levels {black:g}:{white:g}: widen it"
        )
    out = np.empty(values.shape, np.uint8)
    with np.nditer(
        [values, out],
        ["external_loop", "buffered"],
        [["readonly"], ["writeonly"]],
        [np.float64, np.uint8],
        casting="same_kind",
        buffersize=AT_ONCE,
    ) as pieces:
        for values_at_once, out_at_once in pieces:
            out_at_once[...] = np.floor((values_at_once - black) * 255 / (white - black) + 0.5)
    return out


def _most(dtype: np.dtype[Any]) -> float:
    """Return the largest value of a type."""
    if dtype.kind == "b":
        return 1.0
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else np.inf


def certain(low: float, high: float, dtype: np.dtype[Any], name: str) -> Levels:
    """Return the levels of images of this type with values from `low` to `high`.

    Raises:
        DataError: the levels are not certain.
    """
    if dtype.kind == "b":
        return SHARES
    if dtype.kind == "u" and dtype.itemsize <= 2:
        full, least = (BYTES, LEAST_BYTE) if dtype.itemsize == 1 else (WORDS, LEAST_WORD)
        if high == 0 or high >= least:
            return full
    if dtype.kind == "f" and low >= 0 and 1 / 4 < high <= 1:
        return SHARES
    if dtype.kind == "f" and -1 <= low < -1 / 4 and 1 / 4 < high <= 1:
        return SIGNED
    raise uncertain(low, high, dtype, name)


def uncertain(low: float, high: float, dtype: np.dtype[Any], name: str) -> DataError:
    """Return the error for images whose levels are not certain; see `certain`."""
    if not np.isfinite([low, high]).all():
        return _not_finite(name)
    return DataError(
        f"{name}: the images are {dtype} from {low:g} to {high:g}, which may be nearly black or on another scale: make"
        f" them 0 to 255, or say which values are black and white, such as --levels {_guess(low, high)}"
    )


def _not_finite(name: str) -> DataError:
    return DataError(f"{name}: the images hold NaN or infinity: replace these values, or leave such images out")


def _guess(low: float, high: float) -> str:
    """Return a guess of the levels of values from `low` to `high`, for a message: the next power of two, less one."""
    most = max(-low, high)
    white = 1 if most <= 1 else 2 ** int(np.ceil(np.log2(most + 1))) - 1
    return f"{-white if low < 0 else 0}:{white}"


def eight_bits(images: Samples, levels: Levels | None, name: str) -> NDArray[np.uint8]:
    """Return images of any plain type as uint8, scaled from `levels` or from certain levels if None.

    Raises:
        DataError: the levels are not certain, or values lie outside of them.
    """
    if levels is None:
        levels = certain(float(images.min()), float(images.max()), images.dtype, name)
    return scaled(images, levels, name)


def levelled(dataset: Dataset, levels: Levels | None = None) -> Dataset:
    """Return a data set of the same samples, with images of any plain type scaled to uint8 from 0 to 255.

    Raises:
        DataError: the levels are not certain, or they are given for points.
    """
    if len(dataset.shape) != 3:
        if levels:
            raise DataError(f"{dataset.description}: points have no levels: leave out --levels")
        return dataset
    dtype = dataset.read(np.arange(1)).dtype
    if levels is None:
        n = len(dataset)
        low, high = np.float64(np.inf), np.float64(-np.inf)
        for i in np.linspace(0, n - 1, min(n, max(1, LOOKED_AT // prod(dataset.shape)))).astype(np.int64):
            image = dataset.read(i[None])
            low, high = np.minimum(low, image.min()), np.maximum(high, image.max())
            if dtype == np.uint8 and high >= LEAST_BYTE:
                break
        levels = certain(float(low), float(high), dtype, dataset.description)
    return dataset if levels == BYTES and dtype == np.uint8 else Levelled(dataset, levels)


class Levelled:
    """A `Dataset` of the images of another, scaled to 0 to 255 on reading."""

    def __init__(self, dataset: Dataset, levels: Levels) -> None:
        self._dataset, self._levels = dataset, levels
        self.shape, self.classes = dataset.shape, dataset.classes
        self.labels, self.columns = dataset.labels, dataset.columns
        self.description = f"{dataset.description}, levels {levels.black:g}:{levels.white:g}"

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, indices: NDArray[np.integer[Any]]) -> Samples:
        """Return the images at `indices`, uint8 (n, H, W, C).

        Raises:
            DataError: an image has values outside the levels.
        """
        return scaled(self._dataset.read(indices), self._levels, self._dataset.description)
