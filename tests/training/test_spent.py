"""Where the time of a run goes: speed and time left count training alone, and the rest is told apart."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.runs import POINTS, config
from tinyddpm import registry
from tinyddpm.backend import load_backend
from tinyddpm.progress import Progress
from tinyddpm.training.pictures import Pictures
from tinyddpm.training.record import read_record
from tinyddpm.training.run import resume, start
from tinyddpm.training.spent import Spent
from tinyddpm.training.trainer import Trainer

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")

SETTINGS = POINTS.updated(
    {"training": {"steps": 10, "warmup": 1, "log_every": 4, "validate_every": 3, "save_every": 5, "sample_every": 4}}
)

TAKES = {"validating": 100, "saving": 1000, "drawing": 10_000}
"""Seconds, in the time of these tests; a step takes 2, but the first, which warms up, 50."""


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, which passes where a run does something, and only there."""
    found = SimpleNamespace(now=0.0)
    time = SimpleNamespace(perf_counter=lambda: found.now, monotonic=lambda: found.now)
    for module in ("tinyddpm.training.spent", "tinyddpm.training.record", "tinyddpm.progress"):
        monkeypatch.setattr(f"{module}.time", time)

    def taking(place: type, name: str, kind: str) -> None:
        method = getattr(place, name)

        def slow(self: Any, *arguments: Any) -> Any:
            found.now += TAKES.get(kind) or (2 if self.step > 0 else 50)
            return method(self, *arguments)

        monkeypatch.setattr(place, name, slow)

    taking(Trainer, "train_step", "training")
    taking(Trainer, "validation_loss", "validating")
    taking(Trainer, "save", "saving")
    taking(Pictures, "draw_grid", "drawing")
    taking(Pictures, "finish", "drawing")
    return found


def speeds(folder: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["samples_per_second"]) for line in lines if "loss" in line]


def test_speed_is_of_the_steps_since_the_last_line(clock: SimpleNamespace, tmp_path: Path) -> None:
    """Whatever was done between them, and however slow the first was; of those of the last line as well, which are 2.

    A resumed run has forgotten its first steps, and is as fast as it was.
    """
    start(SETTINGS, NUMPY, tmp_path / "r", Progress(StringIO()))
    assert speeds(tmp_path / "r") == [(4, round(4 * 30 / 56, 1)), (8, 15.0), (10, 15.0)]
    resume(tmp_path / "r", Progress(StringIO()), steps=13)
    assert speeds(tmp_path / "r")[3:] == [(12, 15.0), (13, 15.0)]


def test_the_record_and_the_end_tell_the_kinds_apart(clock: SimpleNamespace, tmp_path: Path) -> None:
    said = StringIO()
    start(SETTINGS, NUMPY, tmp_path / "r", Progress(said))
    (part,) = read_record(tmp_path / "r" / "run.json")
    assert part["spent"] == {"training": 68.0, "validating": 400.0, "saving": 2000.0, "drawing": 30_000.0}
    assert part["seconds"] == sum(part["spent"].values())
    assert said.getvalue().endswith("\ntime spent: training 1m08s, validating 6m40s, saving 33m20s, drawing 8h20m\n")


def test_callbacks_count_where_they_are_told(
    clock: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        def validated(self, step: int, loss: float) -> None:
            clock.now += 7

        def drew(self, step: int, paths: list[Path]) -> None:
            clock.now += 70

        def step(self, **values: float) -> None:
            clock.now += 700

    load = registry.load
    monkeypatch.setattr(registry, "load", lambda group, name: Slow if name == "slow" else load(group, name))
    start(SETTINGS.updated({"callbacks": {"slow": {}}}), NUMPY, tmp_path / "r", Progress(StringIO()))
    (part,) = read_record(tmp_path / "r" / "run.json")
    assert part["spent"] == {"training": 68.0, "validating": 428.0, "saving": 2000.0, "drawing": 30_210.0}
    assert speeds(tmp_path / "r")[1:] == [(8, 15.0), (10, 15.0)]


def test_time_left_counts_what_is_due_at_the_time_it_takes(clock: SimpleNamespace, tmp_path: Path) -> None:
    """Of each step, in seconds: what it takes for the steps from there on, and for the rest once that was measured."""
    terminal = Terminal()
    start(SETTINGS, NUMPY, tmp_path / "r", Progress(terminal))
    told = dict(re.findall(r"\r(\d+)/10  loss [^\r\n]* (\w+) left", terminal.getvalue()))
    assert told["1"] == "7m30s", "9 steps as slow as the first"
    assert told["3"] == "14s"
    assert told["4"] == "5m12s", "6 steps, and validations after the steps 6, 9 and 10"
    assert told["8"] == "5h53m", "2 steps, two validations, a save, the grid of this step and the last pictures"
    assert told["10"] == "3h05m"


def test_the_first_of_a_kind_is_left_out_of_its_mean(clock: SimpleNamespace) -> None:
    spent = Spent()
    assert spent.mean("saving") == 0
    for seconds, mean in ((7, 7), (1, 1), (3, 2)):
        with spent.on("saving"):
            clock.now += seconds
        assert spent.mean("saving") == mean

    def fails() -> None:
        clock.now += 5
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), spent.on("drawing"):
        fails()
    assert spent.seconds == {"training": 0, "validating": 0, "saving": 11, "drawing": 5}


def test_a_run_shorter_than_its_log_lines_logs_its_loss(tmp_path: Path) -> None:
    """The mean of all its steps; resumed, it goes on counting as if it had not."""
    start(config(SETTINGS, log_every=1), NUMPY, tmp_path / "each", Progress(StringIO()))
    start(config(SETTINGS, steps=3, log_every=6), NUMPY, tmp_path / "r", Progress(StringIO()))
    resume(tmp_path / "r", Progress(StringIO()), steps=6)
    each, few = (
        {line["step"]: line["loss"] for line in map(json.loads, (tmp_path / name / "metrics.jsonl").open())
         if "loss" in line}
        for name in ("each", "r")
    )  # fmt: skip
    assert few == {
        3: pytest.approx(sum(each[step] for step in range(1, 4)) / 3, rel=1e-12),
        6: pytest.approx(sum(each[step] for step in range(1, 7)) / 6, rel=1e-12),
    }
