"""Axes: their numbers are round, and places and values are each other's inverse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.figures.axes import Axis, levels, steps


def test_numbers_at_the_sides_are_round() -> None:
    assert levels(0.03, 1.1) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1])
    assert levels(0.5, 1.1) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1])
    assert levels(0.96, 1.02) == pytest.approx([0.96, 0.97, 0.98, 0.99, 1])
    assert levels(0.57, 0.75) == pytest.approx([0.6, 0.65, 0.7, 0.75])
    assert levels(0.55, 0.65) == pytest.approx([0.56, 0.58, 0.6, 0.62, 0.64])
    assert steps(0, 300)[:3] == [0, 50, 100]
    assert steps(0, 3.1)[:3] == [0, 0.5, 1]
    assert steps(-3, 3) == [-3, -2, -1, 0, 1, 2, 3]
    assert Axis(0.14, 1.1, log=True).ticks == pytest.approx([0.2, 0.5, 1])
    assert Axis(0.1201, 0.1203, log=True).ticks[:2] == pytest.approx([0.1201, 0.12015], abs=1e-9)
    assert Axis.over([250, 1200], log=False).ticks == [0, 200, 400, 600, 800, 1000, 1200]


@given(values=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20), log=st.booleans(), place=st.floats(0, 1))
def test_every_value_lies_on_its_axis(values: list[float], log: bool, place: float) -> None:
    """With its neighbours in order, and what is at its place is the value again."""
    axis = Axis.over(values, log)
    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert -1e-9 <= places[0] <= places[-1] <= 1 + 1e-9
    assert axis.place(axis.at(place)) == pytest.approx(place, abs=1e-6)
    assert len(axis.ticks) >= 2


def test_what_is_not_above_zero_has_no_logarithm() -> None:
    assert not Axis.over([-1.5, 0.3], log=True).log
    assert Axis.over([0.0, 0.0], log=True) == Axis(0.0, 1.0, log=False)
