"""The race against PyTorch (examples/race.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tinyddpm.backend import load_backend
from tinyddpm.bench import contest
from tinyddpm.bench.peers import load_peer
from tinyddpm.bench.task import make_task
from tinyddpm.figures.lines import line_picture
from tinyddpm.model.checkpoint import load_checkpoint, read_checkpoint_header
from tinyddpm.model.config import preset
from tinyddpm.model.load import CHECKPOINT, layout_of
from tinyddpm.training.assembly import make_trainer, open_data

pytestmark = pytest.mark.slow

RACE = Path(__file__).parents[2] / "examples" / "race.py"

SMALL = [
    "--batch-size", "8", "--threads", "1", "--set", "network.channels=8", "--set", "network.attention=[]",
]  # fmt: skip


@pytest.fixture(scope="module")
def race() -> Any:
    return load_peer(RACE)


@pytest.mark.parametrize("labels", [True, False])
def test_the_twin_learns_what_we_learn(race: Any, labels: bool) -> None:
    """Step by step on the same batches, mirrored alike, at the same times with the same noise, to the same losses."""
    tables = {
        "data": {"flip": True, "labels": labels},
        "network": {"channels": 8, "attention": []},
        "training": {"batch_size": 16, "threads": 1, "warmup": 2},
    }
    task = make_task(preset("digits").config.updated(tables), "digits")
    ours, twin = race.make(task, race.OURS), race.make(task, "channels_last")
    losses = []
    for _ in range(6):
        losses.append([ours.held_out_loss(), twin.held_out_loss()])
        assert [racer.train_for(0.0)[1] for racer in (ours, twin)] == [1, 1]
    first, last = losses[0], losses[-1]
    assert last[0] < 0.97 * first[0]
    np.testing.assert_allclose(*np.transpose(losses), rtol=1e-4)


def test_dropout_is_each_ones_own(race: Any) -> None:
    """The same start, and other weights than without dropout after a step; held-out losses are without it."""
    moved = []
    for rate in (0.0, 0.5):
        tables = {
            "network": {"channels": 8, "attention": [], "dropout": rate},
            "training": {"batch_size": 8, "threads": 1, "warmup": 0},
        }
        task = make_task(preset("digits").config.updated(tables), "digits")
        ours, twin = race.make(task, race.OURS), race.make(task, "eager")
        assert twin.held_out_loss() == twin.held_out_loss() == pytest.approx(ours.held_out_loss(), rel=1e-4)
        twin.train_for(0.0)
        moved.append(twin.held_out_loss())
    assert moved[0] != pytest.approx(moved[1], rel=1e-5)


@pytest.mark.parametrize("variant", ["tinyddpm", "channels_last"])
def test_what_a_racer_saves_is_a_run_of_ours(race: Any, variant: str, tmp_path: Path) -> None:
    """It has the racer's held-out loss, and still has after another step of each: average, weights and moments."""
    tables = {
        "network": {"channels": 8, "attention": [4]},
        "training": {"batch_size": 16, "threads": 1, "warmup": 2},
    }
    task = make_task(preset("digits").config.updated(tables), "digits")
    racer = race.make(task, variant)
    for _ in range(5):
        racer.train_for(0.0)
    racer.save(tmp_path / CHECKPOINT)
    backend = load_backend("numpy")
    run = make_trainer(task.config, backend, open_data(task.config))
    run.restore(load_checkpoint(tmp_path / CHECKPOINT, layout_of(backend)))
    assert run.step == 5
    assert run.validation_loss() == pytest.approx(racer.held_out_loss(), rel=1e-5)
    racer.train_for(0.0)
    run.train_step()
    assert run.validation_loss() == pytest.approx(racer.held_out_loss(), rel=1e-5)


def test_a_race_is_drawn_from_its_numbers(race: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds each, of ours and of whichever variant of the twin is the faster; each leaves a run."""
    monkeypatch.setattr(contest, "TURN", 0.05)
    monkeypatch.setattr(contest, "REST", 0.0)
    out, runs = tmp_path / "race.png", tmp_path / "runs"
    chosen = ["--backends", "numpy", "--variants", "eager,channels_last"]
    files = ["--out", str(out), "--save", str(runs)]
    result = CliRunner().invoke(race.main, ["--minutes", "0.03", *chosen, *files, *SMALL])
    assert result.exit_code == 0, result.output
    found = json.loads(out.with_suffix(".json").read_text())
    ours, twin = found["racers"]
    assert ours == "tinyddpm numpy"
    assert twin in ("torch eager", "torch channels_last")
    for name, track in found["racers"].items():
        assert track["seconds"][0] == track["steps"][0] == 0
        assert track["seconds"][-1] >= 1.8
        assert sorted(track["seconds"]) == track["seconds"]
        assert track["losses"][-1] < 0.99 * track["losses"][0], name
        assert f"{name}: {track['description']}" in result.stdout
        assert read_checkpoint_header(runs / name.replace(" ", "-") / CHECKPOINT).step == track["steps"][-1]
    first, second = (track["losses"][0] for track in found["racers"].values())
    assert first == pytest.approx(second, rel=1e-4)
    curves = {
        f"{name}, {track['steps'][-1]:,} steps": (track["seconds"], track["losses"])
        for name, track in found["racers"].items()
    }
    x_label = f"seconds of training ({found['machine']})"
    with Image.open(out) as picture:
        np.testing.assert_array_equal(
            np.asarray(picture), line_picture(curves, f"Held-out loss: {found['task']}", x_label)
        )
    assert "torch eager" in result.stderr
    assert "ms a step" in result.stderr


def test_the_table(race: Any) -> None:
    """Of one that halves its loss in ten seconds, and one that does so in four."""
    tracks = {"tinyddpm numba": race.Track("ours"), "torch eager": race.Track("twin")}
    for steps, losses in zip((100, 50), ((1.0, 0.5, 0.3), (1.0, 0.9, 0.5)), strict=True):
        track = list(tracks.values())[steps == 50]
        for turn, loss in enumerate(losses):
            track.turn(0.0 if turn == 0 else 4.0 if turn == 1 else 6.0, steps * (turn > 0), loss)
    lines = list(race.table(tracks, 8))
    assert lines[0].split()[-4:] == ["tinyddpm", "numba", "torch", "eager"]
    assert [line.split()[-2:] for line in lines[1:12:5]] == [
        ["1.00000", "1.00000"], [f"{0.5 - 0.2 / 6:.5f}", f"{0.9 - 0.4 / 6:.5f}"], ["0.30000", "0.50000"],
    ]  # fmt: skip
    assert lines[12].split() == ["steps", "200", "100"]
    assert lines[13].split() == ["images/s", "160.0", "80.0"]
    assert lines[14:] == ["tinyddpm numba reaches the last loss of torch eager after 4s, 2.50 times as fast"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--loss", "hybrid"], "training.loss is 'hybrid', but PyTorch's twin takes only 'simple'"),
        (["--variants", "eagre", "--backends", "numpy"], "unknown variant 'eagre': did you mean 'eager'"),
        (["--backends", "nunpy"], "unknown backend 'nunpy': did you mean 'numpy'"),
    ],
)
def test_bad_input_is_one_line(race: Any, options: list[str], line: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(race.main, [*SMALL, *options, "--out", str(tmp_path / "race.png")])
    assert result.exit_code == 1
    (said,) = result.stderr.splitlines()
    assert line in said
    assert not list(tmp_path.iterdir())
