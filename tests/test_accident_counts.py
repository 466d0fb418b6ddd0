"""The counts of `accidents.py`, in a reduced size."""

from __future__ import annotations

import pytest

import accidents


def test_damaged_checkpoints_are_refused_or_read_as_they_were_saved() -> None:
    """120 files with one to three accidents each."""
    found = accidents.mutations(120)
    assert set(found) <= {accidents.REFUSED, accidents.AS_SAVED}
    assert found[accidents.REFUSED] > 60
    assert sum(found.values()) == 120


@pytest.mark.slow
def test_killed_runs_are_readable_and_end_as_the_straight_one() -> None:
    """Four kills, each a moment after a save, in a run that saves all the time."""
    found = accidents.kills(4)
    assert set(found) <= {accidents.READABLE, accidents.STRAIGHT, "killed before the first save"}
    assert found[accidents.READABLE] > 0
