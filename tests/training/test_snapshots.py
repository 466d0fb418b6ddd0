"""Averages made after training: those that the training would have kept, as near as their fits say."""

from __future__ import annotations

import shutil
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from helpers.command_line import fails, run, says
from helpers.runs import POINTS, loaded
from tinyddpm.backend import load_backend
from tinyddpm.errors import CheckpointError, ConfigError, DataError
from tinyddpm.hdf5 import import_h5py
from tinyddpm.model.averages import exponent_of
from tinyddpm.model.checkpoint import Layout, read_checkpoint_header
from tinyddpm.model.config import Config
from tinyddpm.model.load import layout_of, load_model
from tinyddpm.progress import Progress
from tinyddpm.training import snapshots as snapshots_module
from tinyddpm.training.assembly import make_trainer, open_data
from tinyddpm.training.run import resume, start
from tinyddpm.training.snapshots import Snapshots, make_averages, snapshots
from tinyddpm.training.spent import Spent

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")

STEPS = 240

SETTINGS = POINTS.updated(
    {
        "training": {
            "steps": STEPS, "learning_rate": 1e-2, "warmup": 0, "threads": 1, "average_lengths": "0.05,0.1",
            "save_every": 1000, "sample_every": 1000, "validate_every": 1000,
        },
        "sampling": {"steps": 2},
    }
)  # fmt: skip

DIRECT = ("0.030", "0.070", "0.150", "0.250")
"""Lengths that are kept by one run and made of another's."""


def config(**training: Any) -> Config:
    return SETTINGS.updated({"training": training})


def trained(folder: Path, **training: Any) -> Path:
    start(config(**training), NUMPY, folder, Progress(StringIO()))
    return folder


def taken(folder: Path) -> list[int]:
    return [*snapshots(folder)]


def layout_of_run(folder: Path) -> Layout:
    return layout_of(NUMPY)(read_checkpoint_header(folder / "checkpoint.h5"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("finished") / "run", snapshot_every=12)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of a run that may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def direct() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the same training comes to that keeps other lengths, and its weights after each step, (steps, n)."""
    settings = config(average_lengths=",".join(DIRECT))
    trainer = make_trainer(settings, NUMPY, open_data(settings))
    weights = []
    for _ in range(STEPS):
        trainer.train_step()
        weights.append(trainer.weights.astype(np.float64))
    return trainer.averages(), np.stack(weights)


def by_numerical_integration(folder: Path, exponent: float) -> np.ndarray:
    """The average by EDM2's formulas, of snapshots read with h5py: profiles at 24,000 times, and least squares."""
    t = (np.arange(24_000) + 0.5) * STEPS / 24_000
    profiles, averages, layout = [], [], layout_of_run(folder)
    for step, path in snapshots(folder).items():
        with import_h5py().File(path) as file:
            for name in ("0.050", "0.100"):
                gamma = exponent_of(float(name))
                profiles.append(np.where(t <= step, (gamma + 1) * t**gamma / float(step) ** (gamma + 1), 0))
                averages.append(np.concatenate([np.ravel(file[f"{name}/{path}"][()]) for path, _ in layout]))
    columns = np.stack(profiles, axis=1)
    wanted = (exponent + 1) * t**exponent / float(STEPS) ** (exponent + 1)
    free = np.linalg.lstsq(columns[:, :-1] - columns[:, -1:], wanted - columns[:, -1], rcond=1e-12)[0]
    shares = np.append(free, 1 - free.sum())
    return shares @ np.stack(averages).astype(np.float64)


def test_averages_that_are_made_are_those_that_would_have_been_kept(
    folder: Path, direct: tuple[dict[str, np.ndarray], np.ndarray]
) -> None:
    """Of 20 snapshots, two lengths each: within the bound of the fit, and for lengths near those kept to 1e-4.

    The bound is the fit's error times the root mean square of the weights' distance from their mean. Averages of other
    lengths are at least ten times as far away.
    """
    kept, weights = direct
    wander = np.sqrt(np.mean(np.sum((weights - weights.mean(axis=0)) ** 2, axis=1)))
    made = make_averages(folder, [*map(float, DIRECT)])
    assert [each.path.name for each in made] == [f"length-{name}.h5" for name in DIRECT]
    rounding = 1e-5 * np.linalg.norm(weights[-1])
    for each, name in zip(made, DIRECT, strict=True):
        _, found, checkpoint = load_model(each.path, NUMPY)
        assert checkpoint.step == STEPS
        off = np.linalg.norm(found - kept[name])
        assert off <= each.error * wander + rounding
        assert off < {"0.070": 1e-4, "0.150": 1e-4}.get(name, 0.01) * np.linalg.norm(kept[name])
        assert off < 0.1 * min(np.linalg.norm(found - kept[other]) for other in DIRECT if other != name)
    assert [each.beyond for each in made] == [True, False, True, True]


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15])
def test_they_are_what_numerical_integration_makes(folder: Path, length: float) -> None:
    (made,) = make_averages(folder, [length])
    expected = by_numerical_integration(folder, exponent_of(length))
    found = load_model(made.path, NUMPY)[1]
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


def test_a_length_that_was_kept_is_made_again(folder: Path) -> None:
    (made,) = make_averages(folder, [0.1])
    kept = loaded(folder).averages["0.100"]
    np.testing.assert_allclose(load_model(made.path, NUMPY)[1], kept, rtol=0, atol=1e-6 * np.abs(kept).max())


def test_an_earlier_step_has_averages_too(folder: Path, tmp_path: Path) -> None:
    """Those of a run that ended there, of the snapshots up to it alone."""
    (made,) = make_averages(folder, [0.07], step=120)
    shorter = trained(tmp_path / "shorter", steps=120, snapshot_every=12)
    (other,) = make_averages(shorter, [0.07])
    assert made.error == other.error
    assert load_model(made.path, NUMPY)[1].tobytes() == load_model(other.path, NUMPY)[1].tobytes()
    assert load_model(made.path, NUMPY)[2].step == 120
    with pytest.raises(ConfigError, match="no snapshot of step 121: the nearest is of step 120"):
        make_averages(folder, [0.07], step=121)


def test_snapshots_are_fifty_unless_told_otherwise(tmp_path: Path, finished: Path) -> None:
    """And one at the end in any case. Without averages there are none."""
    assert taken(finished) == [*range(12, 241, 12)]
    assert taken(trained(tmp_path / "open", steps=120)) == [*range(3, 121, 3)]
    assert taken(trained(tmp_path / "uneven", steps=10, snapshot_every=4)) == [4, 8, 10]
    assert not (trained(tmp_path / "none", steps=10, average_lengths="") / "averages").exists()


def test_a_resumed_run_takes_those_of_the_straight_run(tmp_path: Path) -> None:
    """To the last byte; what was taken after the step that it goes on from is gone, also where none is taken again."""
    straight = trained(tmp_path / "straight", steps=60, snapshot_every=10)
    stopped = trained(tmp_path / "stopped", steps=30, snapshot_every=10)
    shutil.copy(straight / "averages" / "step_0000050.h5", stopped / "averages" / "step_0000050.h5")
    (stopped / "averages" / "step_0000040.h5").write_bytes(b"of another way")
    toml = stopped / "config.toml"
    toml.write_text(toml.read_text().replace("snapshot_every = 10", "snapshot_every = 20"))
    resume(stopped, Progress(StringIO()), steps=60)
    assert taken(stopped) == [10, 20, 30, 40, 60]
    for step, path in snapshots(stopped).items():
        assert path.read_bytes() == snapshots(straight)[step].read_bytes()


def test_a_snapshot_that_cannot_be_written_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = snapshots_module.write_file

    def failing(path: Path, *rest: Any) -> None:
        if path.name == "step_0000008.h5":
            raise CheckpointError(f"cannot save {path}: No space left on device")
        written(path, *rest)

    monkeypatch.setattr(snapshots_module, "write_file", failing)
    said = StringIO()
    start(config(steps=16, snapshot_every=4), NUMPY, tmp_path / "run", Progress(said))
    assert taken(tmp_path / "run") == [4, 12, 16]
    assert "step_0000008.h5: No space left on device; the run goes on without this snapshot" in said.getvalue()
    assert f"up to 4 snapshots of 0.0 MiB each go to {tmp_path / 'run' / 'averages'}" in said.getvalue()


def test_a_folder_for_snapshots_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "averages").touch()
    group = SimpleNamespace(first=True)
    trainer = SimpleNamespace(config=config(), averaged=("0.050",), group=group, step=0)
    taking = Snapshots(cast(Any, trainer), tmp_path, print, Spent())
    with pytest.raises(DataError, match=r"^cannot write \S*averages: File exists; check its permissions$"):
        taking.begin()


def test_a_damaged_snapshot_is_named(folder: Path) -> None:
    """In one line; without it the others do."""
    path = snapshots(folder)[120]
    with import_h5py().File(path, "r+") as file:
        dataset = file[f"0.050/{layout_of_run(folder)[0][0]}"]
        dataset[(0,) * dataset.ndim] += 1
    with pytest.raises(CheckpointError, match=rf"^{path} is damaged: .*or remove it, and the other snapshots stand in"):
        make_averages(folder, [0.07])
    assert not [*(folder / "averages").glob("length-*")]
    path.rename(path.with_name("step_0000121.h5"))
    with pytest.raises(CheckpointError, match=r"step_0000121\.h5 is not the snapshot of step 121 that its name says"):
        make_averages(folder, [0.07])
    path.with_name("step_0000121.h5").unlink()
    assert make_averages(folder, [0.07])[0].error < 0.02


def test_the_command_makes_a_range(folder: Path) -> None:
    """Checkpoints that the other commands take; what is less good is said."""
    done = run("average", folder, "--lengths", "0.02:0.2:4")
    names = ["0.020", "0.080", "0.140", "0.200"]
    assert [line.split()[1] for line in done.stdout.splitlines()] == [
        str(folder / "averages" / f"length-{name}.h5") for name in names
    ]
    assert "note: 0.020, 0.140, 0.200: outside the range of --average-lengths" in done.stderr
    assert "note: 0.020: for a smaller error, train with more snapshots" in done.stderr
    assert len(says("average", folder, "--lengths", "0.02:0.2").splitlines()) == 10


def test_other_commands_take_what_is_made(folder: Path, tmp_path: Path) -> None:
    """Samples are of the average: other ones than of the run. `info` says what it is."""
    says("average", folder, "--lengths", "0.2")
    path = folder / "averages" / "length-0.200.h5"
    for source, out in ((path, "averaged"), (folder, "plain")):
        says("sample", source, "--count", "3", "--npz", "--out", tmp_path / out)
    drawn = [np.load(tmp_path / out / "samples.npz")["points"] for out in ("averaged", "plain")]
    assert not np.array_equal(*drawn)
    assert "averaged      length 0.200, of 20 snapshots, fit_error" in says("info", path)
    assert "bits/dim" in says("nll", path, "--count", "3")
    assert "for drawing samples, without Adam's moments" in fails("train", "--resume", path, "--steps", "300")


@pytest.mark.parametrize(
    ("lengths", "line"),
    [
        ("0.03:a", "is no range of 2 to 1000: write FIRST:LAST or FIRST:LAST:COUNT"),
        ("0.03:0.2:1", "is no range"),
        ("0.03:0.2:1001", "is no range"),
        ("0.03:0.2:3:4", "is no range"),
        ("0.03:0.5", "give numbers from 0.0001 to 0.288"),
        ("0.00009", "give numbers from 0.0001 to 0.288"),
        ("1e-300", "give numbers from 0.0001 to 0.288"),
        ("", "--lengths names none"),
    ],
)
def test_what_is_no_length_is_refused(lengths: str, line: str, folder: Path) -> None:
    assert line in fails("average", folder, "--lengths", lengths)


def test_a_run_without_averages_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    bare = trained(tmp_path / "bare", steps=4, average_lengths="")
    assert "train with --average-lengths 0.05,0.10" in fails("average", bare, "--lengths", "0.05")
    assert "give the folder" in fails("average", folder / "checkpoint.h5", "--lengths", "0.05")
