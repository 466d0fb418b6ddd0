"""Points as pixels: where a point falls, what is left out, and that more points are darker."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.errors import ConfigError, DataError
from tinyddpm.figures.points import INK, histogram, point_picture, scatter

WHITE = 255


@given(x=st.floats(-0.8, 0.8), y=st.floats(-0.8, 0.8), size=st.integers(16, 64), half=st.floats(0.1, 50))
def test_a_point_is_a_cross_of_ink_at_its_place(x: float, y: float, size: int, half: float) -> None:
    """Over places, sizes and limits: x runs right, y runs up, and a point inks its pixel and four neighbours."""
    picture = scatter(np.array([[x * half, y * half]]), size, (-half, half))
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    inked = np.argwhere((picture != WHITE).any(axis=2))
    centre = inked.mean(axis=0)
    assert sorted(np.abs(inked - centre).sum(axis=1)) == [0, 1, 1, 1, 1]
    expected = np.array([(1 - y) / 2 * size, (1 + x) / 2 * size])  # in pixels from the top left corner
    assert (np.abs(centre + 0.5 - expected) <= 0.5 + 1e-6).all()


@pytest.mark.parametrize(
    ("point", "inked"),
    [
        ((-3.0, 3.0), [(0, 0), (0, 1), (1, 0)]),
        ((3.0, 3.0), [(0, 6), (0, 7), (1, 7)]),
        ((-3.0, -3.0), [(6, 0), (7, 0), (7, 1)]),
        ((3.0, -3.0), [(6, 7), (7, 6), (7, 7)]),
    ],
)
def test_a_point_in_a_corner_is_cut_off_and_does_not_wrap(
    point: tuple[float, float], inked: list[tuple[int, int]]
) -> None:
    picture = scatter(np.array([point]), 8)
    assert [tuple(place) for place in np.argwhere((picture != WHITE).any(axis=2))] == inked


def test_points_on_points_are_darker_and_nothing_gets_darker_than_the_ink() -> None:
    brightness = [int(scatter(np.zeros((n, 2)) + 0.01, 32)[15, 16].sum()) for n in (0, 1, 2, 3, 1000)]
    assert brightness == sorted(brightness, reverse=True)
    assert brightness[0] == 3 * WHITE
    assert len(set(brightness)) == 5
    assert brightness[-1] > 0


def test_points_beyond_the_limits_or_not_finite_are_left_out() -> None:
    points = np.array([[9.0, 0], [0, -9], [np.nan, 0], [0, np.inf], [-np.inf, np.nan]], np.float32)
    assert (scatter(points) == WHITE).all()
    assert (scatter(np.empty((0, 2))) == WHITE).all()


def test_bad_points_and_settings_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(4, 3\): they must be \(n, 2\)"):
        scatter(np.zeros((4, 3)))
    with pytest.raises(ConfigError, match="size is 4"):
        scatter(np.zeros((4, 2)), size=4)
    with pytest.raises(ConfigError, match="rising range"):
        scatter(np.zeros((4, 2)), limits=(1.0, 1.0))


def test_a_histogram_has_bars_as_high_as_its_counts() -> None:
    """Three bars of four pixels over [-3, 3], worked out by hand: 4, 0 and 2 points; what lies outside is in none."""
    points = np.array([[-2.0], [-2.5], [-1.5], [-1.1], [1.5], [2.0], [9.0], [np.nan], [np.inf]])
    picture = histogram(points, 12)
    inked = (picture == INK).all(axis=2)
    assert inked.sum(axis=0).tolist() == [12] * 4 + [0] * 4 + [6] * 4
    assert inked[6:, 8:].all(), "bars stand on the ground"
    assert ((picture == WHITE).all(axis=2) == ~inked).all()
    assert (histogram(np.empty((0, 1))) == WHITE).all()


def test_points_are_drawn_by_their_dimension() -> None:
    points = np.random.default_rng(0).normal(size=(50, 2))
    np.testing.assert_array_equal(point_picture(points), scatter(points))
    np.testing.assert_array_equal(point_picture(points[:, :1]), histogram(points[:, :1]))
    with pytest.raises(DataError, match=r"shape \(4, 3\): they must be \(n, 1\) or \(n, 2\); save them as .npz"):
        point_picture(np.zeros((4, 3)))
    with pytest.raises(DataError, match=r"histogram: they must be \(n, 1\)"):
        histogram(points)
    with pytest.raises(ConfigError, match="size is 4"):
        histogram(np.zeros((4, 1)), size=4)
