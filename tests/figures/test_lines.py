"""Curves in a picture: where they lie."""

from __future__ import annotations

import numpy as np
import pytest

from tinyddpm.errors import ConfigError
from tinyddpm.figures.lines import BOTTOM, COLOURS, LEFT, RIGHT, TOP, Curve, line_picture

WIDTH, HEIGHT = 600, 400
PLOT = (slice(TOP + 50, HEIGHT - BOTTOM + 3), slice(LEFT, WIDTH - RIGHT + 1))
"""Below the legend."""


def drawn(picture: np.ndarray, number: int) -> np.ndarray:
    """Where a curve's own colour is, (rows, columns) of the plot below the legend."""
    return np.asarray((picture[PLOT] == COLOURS[number]).all(axis=-1))


def middle(mask: np.ndarray, column: int) -> float:
    """The row of the picture in which a curve lies."""
    return TOP + 50 + float(np.flatnonzero(mask[:, column]).mean())


def test_powers_lie_on_a_line_and_curves_end_where_they_end() -> None:
    """y = 10^(-x) falls in a straight line from 1 to 10⁻⁴, in every column; the other ends in the middle of x."""
    x = np.linspace(0, 4, 9)
    curves: dict[str, Curve] = {"a": (list(x), list(10**-x)), "b": ([0, 2], [1e-3, 1e-3])}
    picture = line_picture(curves, size=(WIDTH, HEIGHT))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    first, second = drawn(picture, 0), drawn(picture, 1)
    columns = np.arange(120, first.shape[1] - 5)
    rows = np.array([middle(first, column) for column in columns])
    slope, start = np.polyfit(columns, rows, 1)
    # 0.03 decades of space above and below 4 decades, over all of the width.
    high = HEIGHT - TOP - BOTTOM
    np.testing.assert_allclose(slope, high * 4 / 4.06 / (WIDTH - LEFT - RIGHT), rtol=0.01)
    np.testing.assert_allclose(start, TOP + high * 0.03 / 4.06, atol=1.5)
    np.testing.assert_allclose(rows, slope * columns + start, atol=1.5)
    reach = np.flatnonzero(second.any(axis=0))
    assert abs(reach[-1] - (WIDTH - LEFT - RIGHT) / 2) < 4
    assert middle(second, 50) == pytest.approx(TOP + high * 3.03 / 4.06, abs=1.5)


def test_each_curve_has_its_colour_in_the_legend() -> None:
    curves: dict[str, Curve] = {f"c{i}": ([0, 1], [1.0, 0.1]) for i in range(6)}
    picture = line_picture(curves, "title", "x", (WIDTH, HEIGHT))
    for number, colour in enumerate(COLOURS):
        assert (picture[TOP + 18 + 20 * number, WIDTH - RIGHT - 30] == colour).all()
    dark = (picture < 120).all(axis=-1)
    assert dark[: TOP - 2].any(), "the title"
    assert dark[HEIGHT - 20 :].any(), "the label below"
    assert not dark[:, :5].any()


@pytest.mark.parametrize(
    ("curves", "line"),
    [
        ({}, "0 curves in one picture"),
        ({str(i): ([0, 1], [1, 1]) for i in range(7)}, "7 curves in one picture: give 1 to 6"),
        ({"a": ([0], [1])}, "a has 1 x and 1 y"),
        ({"a": ([0, 1], [1, 2, 3])}, "a has 2 x and 3 y"),
        ({"a": ([0, 1], [1, 0])}, "a has values that a logarithmic chart cannot show"),
        ({"a": ([0, 1], [1, float("nan")])}, "a has values"),
        ({"a": ([1, 0], [1, 1])}, "a has x that fall"),
    ],
)
def test_what_cannot_be_drawn_is_refused(curves: dict[str, Curve], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        line_picture(curves)
    with pytest.raises(ConfigError, match="too small"):
        line_picture({"a": ([0, 1], [1, 1])}, size=(100, 100))
