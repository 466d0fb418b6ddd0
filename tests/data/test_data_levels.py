"""Levels: where certainty begins and ends, and what scaling rounds to."""

from __future__ import annotations

import numpy as np
import pytest

from tinyddpm.data.base import ArrayDataset
from tinyddpm.data.levels import (
    BYTES,
    SHARES,
    SIGNED,
    WORDS,
    Levels,
    certain,
    eight_bits,
    levelled,
    parse_levels,
    scaled,
)
from tinyddpm.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("dtype", "low", "high", "levels"),
    [
        ("u1", 0, 32, BYTES),
        ("u1", 0, 31, None),
        ("u1", 0, 0, BYTES),
        ("u2", 0, 2**14, WORDS),
        ("u2", 0, 2**14 - 1, None),
        ("u2", 0, 0, WORDS),
        ("u4", 0, 255, None),
        ("i2", 0, 32767, None),
        ("i8", 0, 255, None),
        ("?", 0, 1, SHARES),
        ("?", 0, 0, SHARES),
        ("f4", 0, 0.2501, SHARES),
        ("f4", 0, 0.25, None),
        ("f4", 0, 1, SHARES),
        ("f4", 0, 1.0001, None),
        ("f4", 0, 0, None),
        ("f8", -0.2501, 0.2501, SIGNED),
        ("f8", -0.25, 1, None),
        ("f8", -1, 0.25, None),
        ("f8", -1, 1, SIGNED),
        ("f8", -1.0001, 1, None),
        ("f8", -1, 1.0001, None),
    ],
)
def test_where_levels_are_certain(dtype: str, low: float, high: float, levels: Levels | None) -> None:
    """On either side of each bound, as the room's docstring has them."""
    if levels:
        assert certain(low, high, np.dtype(dtype), "x") == levels
    else:
        with pytest.raises(DataError, match=r"^x: the images are .* from .* to .*, which may be nearly black"):
            certain(low, high, np.dtype(dtype), "x")


@pytest.mark.parametrize(
    ("low", "high", "guess"),
    [
        (0, 1, "0:1"),
        (0, 2, "0:3"),
        (0, 255, "0:255"),
        (0, 256, "0:511"),
        (-3, 9, "-15:15"),
        (-1, 0.5, "-1:1"),
        (-9, 3, "-15:15"),
    ],
)
def test_the_refusal_names_levels_that_hold_all_values(low: float, high: float, guess: str) -> None:
    with pytest.raises(DataError, match=f"such as --levels {guess}$"):
        certain(low, high, np.dtype(np.int32), "x")


def test_scaling_rounds_to_the_nearest_and_halves_up() -> None:
    """In any layout, and over more values than are scaled at a time."""
    values = np.random.default_rng(0).integers(-100, 411, (3, 300, 200, 3)).astype(np.int16)
    expected = np.floor((values + 100.0) / 510 * 255 + 0.5)
    for array in (values, np.asfortranarray(values), values[:, ::-1]):
        found = scaled(array, Levels(-100, 410), "x")
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected[:, ::-1] if array.base is values else expected)
    assert scaled(np.asarray([1, 2, 3]), Levels(0, 510), "x").tolist() == [1, 1, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_levels_and_without(value: float) -> None:
    """No other levels would help."""
    for levels in (None, Levels(0, 3)):
        with pytest.raises(DataError, match=r"^x: the images hold NaN or infinity: replace these values"):
            eight_bits(np.asarray([0.5, 1, value]), levels, "x")


@pytest.mark.parametrize(("dtype", "most"), [(bool, 1), (np.uint8, 255), (np.int8, 127), (np.uint16, 65535)])
def test_a_white_that_the_type_cannot_hold_is_refused(dtype: type, most: int) -> None:
    values = np.asarray([0, 1], dtype)
    assert scaled(values, Levels(0, most), "x")[0] == 0
    with pytest.raises(DataError, match=rf"^x: the images are {values.dtype}, of at most {most}, and would be nearly"):
        scaled(values, Levels(0, most + 1), "x")


@pytest.mark.parametrize("value", [-1, 4])
def test_values_outside_the_levels_are_refused(value: float) -> None:
    with pytest.raises(DataError, match=r"^x: values from .* are not all in --levels 0:3: widen it"):
        scaled(np.asarray([0, 3, value]), Levels(0, 3), "x")


def test_points_have_no_levels() -> None:
    points = ArrayDataset(np.zeros((3, 2), np.float32), name="x")
    assert levelled(points) is points
    with pytest.raises(DataError, match=r"^x: 3 points: points have no levels: leave out --levels"):
        levelled(points, SHARES)


@pytest.mark.parametrize("bright", range(5))
def test_one_bright_image_makes_bytes_certain_wherever_it_is(bright: int) -> None:
    images = np.zeros((5, 4, 4), np.uint8)
    images[:] = 1
    images[bright, 1, 2] = 32
    dataset = ArrayDataset(images, name="x")
    assert levelled(dataset) is dataset
    assert levelled(dataset, BYTES) is dataset


@pytest.mark.parametrize("text", ["1:1", "2:1", "0", "0:1:2", "a:1", "1e3:2e3", "0:nan"])
def test_levels_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="are not BLACK:WHITE: give two rising numbers, such as 0:4095"):
        parse_levels(text)


def test_levels_may_be_broken_numbers_and_below_zero() -> None:
    assert parse_levels(" -1.5 : 0.25 ") == Levels(-1.5, 0.25)
    assert parse_levels("") is None
