"""A run's record: what it says, that resuming adds to it, and that nothing of it ends a run."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyddpm
from helpers.runs import POINTS, config
from tinyddpm.backend import load_backend
from tinyddpm.errors import DataError, TrainingError
from tinyddpm.progress import Progress
from tinyddpm.training.record import read_record
from tinyddpm.training.run import resume, start

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")

SETTINGS = POINTS.updated(
    {
        "data": {"validation": 50},
        "training": {"steps": 6, "log_every": 2, "validate_every": 1000, "save_every": 2, "sample_every": 1000},
    }
)


def train(folder: Path, **training: Any) -> str:
    """Start a run and return what it says."""
    told = StringIO()
    start(config(SETTINGS, **training), NUMPY, folder, Progress(told))
    return told.getvalue()


def test_a_record_says_what_was_done_by_what_and_resuming_adds_to_it(tmp_path: Path) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    train(tmp_path / "run")
    resume(tmp_path / "run", Progress(StringIO()), steps=9)
    first, second = read_record(tmp_path / "run" / "run.json")
    assert [(part["first"], part["step"], part["ended"]) for part in (first, second)] == [
        (0, 6, "complete"),
        (6, 9, "complete"),
    ]
    assert began <= datetime.fromisoformat(first["began"]) <= datetime.fromisoformat(second["began"])
    assert 0 <= first["seconds"] <= (datetime.now(UTC) - began).total_seconds()
    assert first["data"]["description"].startswith("moons")
    assert first["data"]["held_out"] == 50
    assert first["parameters"] == 1442  # counted by hand: time 272 + 272, in 48, block 816, out 34
    assert first["backend"] == NUMPY.describe()
    assert first["versions"]["numpy"] == np.__version__
    assert first["versions"]["tinyddpm"] == tinyddpm.__version__


def test_what_is_not_complete_says_what_ended_it(tmp_path: Path) -> None:
    """A callback, or an error: then it tells the last save, which is where the run can go on."""
    early_stop = {"early-stop": {"patience": 1, "least": 100.0}}
    start(
        config(SETTINGS, validate_every=2).updated({"callbacks": early_stop}),
        NUMPY,
        tmp_path / "stopped",
        Progress(StringIO()),
    )
    (part,) = read_record(tmp_path / "stopped" / "run.json")
    assert (part["step"], part["ended"]) == (4, "early-stop")
    with pytest.raises(TrainingError):
        train(tmp_path / "diverged", steps=500, clip=0.0, warmup=0, learning_rate=1e12)
    (part,) = read_record(tmp_path / "diverged" / "run.json")
    assert part["ended"] == "TrainingError"
    assert part["step"] % 2 == 0


@pytest.mark.parametrize(
    "damage", ["", '{"parts": [', "[]", '{"parts": {"a": 1}}', '{"parts": [1]}', "[" * 100_000, "\xff"]
)
def test_a_damaged_record_ends_no_run_and_is_written_anew(damage: str, tmp_path: Path) -> None:
    train(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_bytes(damage.encode("latin-1"))
    with pytest.raises(DataError, match=r"^\S*run.json is damaged: it (is no JSON text|has no list of parts)$"):
        read_record(path)
    (tmp_path / "run" / ".run.json.0123abcd.tmp").write_text("left by a killed run")
    told = StringIO()
    assert resume(tmp_path / "run", Progress(told), steps=7).complete
    (note,) = [line for line in told.getvalue().splitlines() if line.startswith("note: ")]
    assert note.endswith("; it is written anew, and the run goes on")
    (part,) = read_record(path)
    assert (part["first"], part["step"]) == (6, 7)
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_a_record_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    train(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    told = StringIO()
    assert resume(tmp_path / "run", Progress(told), steps=7).complete
    assert f"note: cannot write {path}" in told.getvalue()
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 7
