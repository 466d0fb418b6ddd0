"""The counts of `count_accidents.py`, in a reduced size."""

from __future__ import annotations

from pathlib import Path

import pytest

from accidents import damage, resumed


def test_damaged_checkpoints_are_refused_or_read_as_they_were_saved() -> None:
    """120 files with one to three accidents each."""
    found = damage.mutations(120)
    assert found.wrong == []
    assert found.right[damage.REFUSED] > 60
    assert found.tried == 120


@pytest.mark.slow
def test_killed_runs_are_readable_and_end_as_the_straight_one() -> None:
    """Four kills, each a moment after a save, in a run that saves all the time."""
    found = damage.kills(4)
    assert found.wrong == []
    assert found.right[damage.READABLE] > 0


def test_resumed_runs_are_the_straight_ones(tmp_path: Path) -> None:
    """In ten combinations that have every backend, objective, law of times, condition and kind of data between them."""
    for values, found in zip(resumed.AXES.values(), zip(*resumed.cases(10), strict=True), strict=True):
        assert set(values) == set(found)
    assert resumed.resumes(10, tmp_path).wrong == []
