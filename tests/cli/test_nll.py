"""`tinyddpm nll`, as a user meets it."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyddpm
from helpers import command_line
from helpers.command_line import NARROW, ONE_LEVEL, SIX_STEPS, TWO_STEPS, run, says, trained
from tinyddpm.backend import load_backend
from tinyddpm.cli import main
from tinyddpm.data import open_dataset
from tinyddpm.figures.marks import read_mark
from tinyddpm.model.checkpoint import load_checkpoint
from tinyddpm.model.config import Config
from tinyddpm.model.load import CHECKPOINT, layout_of
from tinyddpm.training.assembly import make_trainer

pytestmark = pytest.mark.slow

fails = partial(command_line.fails, "nll")


def report(*arguments: str) -> dict[str, Any]:
    return json.loads(says("nll", *arguments, "--json"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """By class, with a learned variance."""
    folder = tmp_path_factory.mktemp("nll") / "digits"
    return trained(folder, *SIX_STEPS, *NARROW, "--loss", "hybrid")


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(tmp_path_factory.mktemp("nll") / "points", *SIX_STEPS, "--data", "moons")


def test_every_option_has_help() -> None:
    assert run("nll", "--help").exit_code == 0
    parameters = main.get_command(None, "nll").params
    assert all(parameter.help for parameter in parameters if parameter.param_type_name == "option")


def test_samples_that_were_held_out_take_the_place_of_a_split_if_there_are_data(digits: str, tmp_path: Path) -> None:
    """Of a run on an array nothing is there: that is said, and nothing else."""
    few = ("--count", "2", "--times", "2")
    (note,) = [line for line in run("nll", digits, *few).stderr.splitlines() if line.startswith("note: ")]
    assert note.endswith("has no split 'test', only 'train'; the samples that the run held out are used instead")
    small = {"timesteps": 10, "batch_size": 4, "network": {"width": 8}, "progress": False}
    tinyddpm.train(np.zeros((20, 2)), out=tmp_path / "run", steps=1, **small)
    line = "the data were given as an array, which is not kept: give it again, or a file of it by --data"
    assert run("nll", tmp_path / "run", *few).stderr == f"Error: {line}\n"


def test_without_matplotlib_the_report_is_written(digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    few = ("--count", "2", "--times", "2", "--flow", "--flow-steps", "2")
    result = run("nll", digits, *few, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "note: drawing figures needs matplotlib" in result.stderr
    (written,) = tmp_path.iterdir()
    flow = json.loads(written.read_text())["flow"]
    (row,) = [line.split() for line in result.stdout.splitlines() if line.startswith(" flow")]
    assert float(row[1]) == pytest.approx(flow["mean"], abs=1e-4)
    assert " ".join(row).endswith("by the probability flow in 2 steps, without L_0")


def test_of_data_that_are_gone_nothing_is_used_instead(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((20, 8, 8), np.uint8))
    model = trained(tmp_path / "run", "--data", tmp_path / "a.npz", *TWO_STEPS, *ONE_LEVEL, "--schedule", "cosine")
    assert " has no split 'test'" in run("nll", model, "--count", "2", "--times", "2").stderr
    (tmp_path / "a.npz").unlink()
    result = run("nll", model)
    assert result.exit_code == 1
    assert "note: " not in result.stderr


def test_a_table_for_a_newcomer(digits: str) -> None:
    """Digits have no test split, so what the run held out is taken, with a note."""
    result = run("nll", digits, "--count", "6")
    assert result.exit_code == 0, result.output
    assert "note: digits has no split 'test', only 'train'; the samples that the run held out" in result.stderr
    first, unit, _, *rows = result.stdout.splitlines()
    assert first.startswith("6 samples of ")
    assert first.endswith("(held-out)")
    assert unit.startswith("bits/dim")
    assert [row.split()[0] for row in rows] == ["L_T", "L_t", "L_0", "total"]
    values = [float(row.split()[1]) for row in rows]
    assert values[3] == pytest.approx(sum(values[:3]), abs=2e-4)


def test_json_says_it_all(digits: str) -> None:
    found = report(digits, "--count", "5", "--draws", "2", "--flow", "--flow-steps", "7")
    about = {"checkpoint", "step", "weights", "data", "split", "samples", "draws", "seed", "T", "times", "variance"}
    assert set(found) == about | {"unit", "bound", "steps", "flow"}
    assert (found["samples"], found["draws"], found["T"], found["times"]) == (5, 2, 20, 20)
    assert (found["unit"], found["split"], found["weights"]) == ("bits/dim", "held-out", "average")
    assert list(found["bound"]) == ["L_T", "L_t", "L_0", "total"]
    for part in [*found["bound"].values(), found["flow"]]:
        assert part["se_samples"] > 0
        # No noise is in L_T.
        assert part["se_noise"] is None if part is found["bound"]["L_T"] else part["se_noise"] > 0
        assert part["se_times"] is None
        assert part["se"] == part["se_samples"]
    assert found["flow"]["steps"] == 7
    steps = found["steps"]
    assert set(steps) == {"t", "weight", "bits", "se", "mse_x_0", "mse_eps", "rate", "distortion"}
    assert all(len(column) == 20 for column in steps.values())
    assert steps["t"] == list(range(20))
    assert found["bound"]["total"]["mean"] == pytest.approx(steps["rate"][0] + steps["bits"][0])
    np.testing.assert_allclose(np.square(steps["distortion"]), np.multiply(127.5**2, steps["mse_x_0"]), rtol=1e-9)


def test_batches_and_threads_change_nothing(digits: str) -> None:
    """To float32's rounding, which sums of other shapes may do in another order."""
    one = report(digits, "--count", "7", "--flow", "--flow-steps", "5")
    other = report(digits, "--count", "7", "--flow", "--flow-steps", "5", "--batch-size", "3", "--threads", "2")
    for found, expected in ((other["bound"]["total"], one["bound"]["total"]), (other["flow"], one["flow"])):
        assert found["mean"] == pytest.approx(expected["mean"], rel=1e-4)
        assert found["se"] == pytest.approx(expected["se"], rel=1e-3)
    np.testing.assert_allclose(other["steps"]["bits"], one["steps"]["bits"], rtol=1e-3, atol=1e-6)


def test_options_that_change_the_number_do(digits: str) -> None:
    totals = [
        report(digits, "--count", "4", *more)["bound"]["total"]["mean"]
        for more in ([], ["--variance", "large"], ["--variance", "small"], ["--seed", "1"], ["--raw"])
    ]
    assert len(set(totals)) == len(totals)


def test_some_times_say_what_they_add(digits: str) -> None:
    found = report(digits, "--count", "4", "--times", "8")
    assert found["times"] == 9
    total = found["bound"]["total"]
    assert total["se_times"] > 0
    assert total["se"] == pytest.approx(np.hypot(total["se_samples"], total["se_times"]))
    assert sum(found["steps"]["weight"]) == 20


def test_points_have_a_density(points: str) -> None:
    found = report(points, "--data", "moons", "--split", "train", "--count", "20", "--flow")
    assert found["split"] == "train"
    assert np.isfinite([found["bound"]["total"]["mean"], found["flow"]["mean"]]).all()
    np.testing.assert_allclose(np.square(found["steps"]["distortion"]), found["steps"]["mse_x_0"], rtol=1e-9)
    assert "density of the point" in run("nll", points, "--count", "3", "--split", "train").stdout


def test_held_out_is_what_training_held_out(digits: str) -> None:
    """The samples that the trainer keeps away, by their number and their description."""
    backend = load_backend("numpy")
    checkpoint = load_checkpoint(Path(digits, CHECKPOINT), layout_of(backend))
    kept = make_trainer(Config.from_dict(checkpoint.config), backend, open_dataset("digits")).held_out
    found = report(digits, "--count", "0", "--times", "2", "--split", "held-out")
    assert found["samples"] == len(kept)
    assert found["data"] == kept.description


def test_writes_its_report_and_its_picture(digits: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("nll", digits, "--count", "3", "--out", str(tmp_path / "out"))
    assert [line for line in result.stdout.splitlines() if line.startswith("wrote")] == [
        f"wrote {tmp_path / 'out' / 'nll.json'}", f"wrote {tmp_path / 'out' / 'nll.png'}",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "nll.json").read_text())["samples"] == 3
    made = read_mark(tmp_path / "out" / "nll.png")
    assert (made["made_by"], made["checkpoint"]["step"]) == ("tinyddpm nll", 6)


def test_errors_are_one_line(digits: str, points: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not empty" in fails(digits, "--out", str(tmp_path))
    assert "no split 'test'" in fails(digits, "--split", "test")
    assert "no split 'composed', only 'train'" in fails(digits, "--split", "composed")
    assert "the model's are 8x8x1" in fails(digits, "--data", "moons", "--split", "train")
    assert "held out nothing of moons" in fails(points, "--data", "moons", "--split", "held-out")
    assert "give an even number from 2 to 19" in fails(digits, "--times", "5")
    assert "20 steps of the flow on a chain of 20" in fails(digits, "--flow", "--flow-steps", "20")
    assert "give --flow with it" in fails(digits, "--flow-steps", "3")
    assert "nothing" in fails(str(tmp_path / "nothing"))
    images = tmp_path / "images.npy"
    np.save(images, np.zeros((3, 8, 8), np.uint8))
    assert "give data with these classes" in fails(digits, "--data", str(images), "--split", "train")
