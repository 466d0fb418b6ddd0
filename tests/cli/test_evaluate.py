"""`tinyddpm evaluate`, as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers import command_line
from helpers.command_line import MOONS, NARROW, SIX_STEPS, run, says, trained
from tinyddpm.cli.evaluate import _training
from tinyddpm.data import open_dataset
from tinyddpm.data.base import Dataset
from tinyddpm.figures.marks import read_mark
from tinyddpm.metrics import evaluation
from tinyddpm.metrics.plain import Pixels
from tinyddpm.model.config import Config
from tinyddpm.model.model import Model
from tinyddpm.progress import unwatched

pytestmark = pytest.mark.slow

FEW = ["--count", "30", "--sampler", "ddim", "--steps", "3"]

fails = partial(command_line.fails, "evaluate")


def report(*arguments: str) -> dict[str, Any]:
    return json.loads(says("evaluate", *arguments, "--json"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """By class, and trained for guidance."""
    folder = tmp_path_factory.mktemp("evaluate") / "digits"
    return trained(folder, *SIX_STEPS, *NARROW, "--condition-dropout", "0.5")


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(tmp_path_factory.mktemp("evaluate") / "points", *SIX_STEPS, *MOONS)


NUMBERS = [
    "frechet", "kernel", "kernel se", "precision", "recall", "density", "coverage", "class obeyed",
    "training distance", "near training",
]  # fmt: skip
"""Of digits, whose pixels have no logits and which have no captions."""


def test_a_table_for_a_newcomer(digits: str, tmp_path: Path) -> None:
    """Digits have no test split, and what was held out is fewer than twice 300: both are said."""
    result = run("evaluate", digits, "--count", "300", *FEW[2:], "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "note: digits has no split 'test'" in result.stderr
    assert "s left" in result.stderr
    drawn, real, copies, seen, floor, _, titles, *rows = result.stdout.splitlines()
    assert drawn.startswith(f"300 samples of {digits}, step 6, average weights, sha256 ")
    assert real.startswith("beside 179 of 179 of digits")
    assert copies == "copies are searched among 1618 training samples"
    assert seen == "seen by pixels: pixels from 0 to 1; resize: none"
    assert floor == "floor: 89 of the real ones beside 89 others; fewer samples than are drawn make it higher"
    assert titles.split() == ["floor", "drawn"]
    numbers, written = rows[: len(NUMBERS)], rows[len(NUMBERS) :]
    assert [row[:17].rstrip() for row in numbers] == NUMBERS
    assert all(len(row[17:].split()) == 2 for row in numbers)
    stem = written[0].removeprefix("wrote ").removesuffix(".json")
    assert written == [f"wrote {stem}.json", f"wrote {stem}-closest.png"]
    assert json.loads(Path(f"{stem}.json").read_text())["samples"] == 300
    assert Image.open(f"{stem}-closest.png").size == (10 * 50 + 2, 2 * 50 + 2)
    mark = read_mark(Path(f"{stem}-closest.png"))
    assert (mark["made_by"], mark["sampling"]["name"], len(mark["samples"])) == ("tinyddpm evaluate", "ddim", 10)
    assert all(sample["class"] in "0123456789" for sample in mark["samples"])


def test_json_says_it_all(digits: str, tmp_path: Path) -> None:
    found = report(digits, *FEW, "--seed", "3", "--raw", "--out", str(tmp_path), "--metric-option", "kernel.subsets=7")
    assert (found["samples"], found["seed"], found["weights"], found["split"]) == (30, 3, "raw", "held-out")
    assert found["features"] == {
        "name": "pixels", "options": {}, "description": "pixels from 0 to 1", "resize": "none",
    }  # fmt: skip
    assert found["metrics"]["kernel"] == {"subsets": 7}
    assert len(found["sha256"]) == 64
    assert found["floor"]["samples"] == found["compared"] == 30
    (drawn,) = found["drawn"]
    assert drawn["sampling"]["name"] == "ddim"
    assert drawn["sampling"]["steps"] == 3
    assert list(drawn["numbers"]) == list(found["floor"]["numbers"]) == NUMBERS
    assert len(drawn["closest"]) == 10
    assert drawn["closest"] == sorted(drawn["closest"])


def test_real_samples_pass_for_what_they_are(digits: str, tmp_path: Path) -> None:
    """The floor is near what equal laws give, and six steps of training are far from it."""
    found = report(digits, *FEW, "--out", str(tmp_path))
    floor, drawn = found["floor"]["numbers"], found["drawn"][0]["numbers"]
    assert abs(floor["kernel"]) < 5 * floor["kernel se"]
    assert floor["precision"] > 0.5 > drawn["precision"]
    assert drawn["frechet"] > 3 * floor["frechet"]
    assert floor["class obeyed"] > 0.5 > drawn["class obeyed"]
    assert floor["training distance"] == pytest.approx(1, abs=0.2)
    assert drawn["training distance"] > 1.2


def test_the_same_again_is_computed_from_what_was_kept(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is drawn, seen or measured anew; more samples draw only those that are new."""
    monkeypatch.setattr(evaluation, "QUICK", 0.0)
    monkeypatch.setattr(evaluation, "CHUNK", 10)
    first = report(digits, *FEW, "--out", str(tmp_path))
    sample = Model.sample

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("computed anew")

    with monkeypatch.context() as patch:
        for module, name in ((Model, "sample"), (evaluation, "measure"), (Pixels, "__call__")):
            patch.setattr(module, name, refuse)
        assert report(digits, *FEW, "--out", str(tmp_path)) == first
    numbers: list[int] = []

    def counted(model: Model, weights: Any, samples: np.ndarray, *given: Any) -> Any:
        numbers.extend(samples)
        return sample(model, weights, samples, *given)

    monkeypatch.setattr(Model, "sample", counted)
    report(digits, "--count", "45", *FEW[2:], "--batch-size", "7", "--out", str(tmp_path))
    assert numbers == list(range(30, 45))


@pytest.mark.parametrize("change", [["--seed", "1"], ["--raw"], ["--sampler", "ancestral"]], ids=str)
def test_what_changes_the_samples_draws_them_anew(digits: str, tmp_path: Path, change: list[str]) -> None:
    first, other = (report(digits, *FEW, *more, "--out", str(tmp_path)) for more in ([], change))
    assert first["drawn"][0]["numbers"] != other["drawn"][0]["numbers"]


def test_killed_in_the_middle_it_goes_on(digits: str, tmp_path: Path) -> None:
    """By SIGKILL once a batch is written: it stays, the rest is drawn, and the numbers are those of a straight run."""
    long = [digits, "--count", "700", "--sampler", "ddim", "--metrics", "frechet,kernel"]
    straight = report(*long, "--out", str(tmp_path / "straight"))
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "tinyddpm", "evaluate", *long, "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (kept := list(out.glob("kept/drawn/*/*.npz"))) and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert len(kept) < 6
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert report(*long, "--out", str(out)) == straight
    assert before == {path: path.stat().st_mtime_ns for path in kept}
    assert len(list(out.glob("kept/drawn/*/*.npz"))) == 6


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_keeps_what_it_drew(
    number: signal.Signals, code: int, digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the second batch: it says where the first one is, and does not draw it again."""
    arguments = ["evaluate", digits, "--count", "200", *FEW[2:], "--metrics", "frechet", "--out", str(tmp_path)]
    batches, sample = [], Model.sample

    def interrupted(*given: Any) -> Any:
        batches.append(given)
        if len(batches) == 2:
            signal.raise_signal(number)
        return sample(*given)

    monkeypatch.setattr(Model, "sample", interrupted)
    result = run(*arguments)
    assert result.exit_code == code
    assert result.stderr.splitlines()[-1] == (
        f"stopped by {number.name}; what was drawn is kept: the same command goes on from {tmp_path / 'kept'}"
    )
    assert len(list(tmp_path.glob("kept/drawn/*/*.npz"))) == 1
    assert run(*arguments).exit_code == 0
    assert len(batches) == 3


def test_training_samples_are_looked_for_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def opened(config: Config, *given: object) -> Dataset:
        asked.append(config.data.data_dir)
        return open_dataset("digits")

    monkeypatch.setattr("tinyddpm.training.assembly.open_data", opened)
    for folder in (None, "there"):
        assert len(_training(Config.from_dict({"data": {"data_dir": "gone"}}), folder, 7, unwatched, False)) == 7
    assert asked == ["gone", "there"]


def test_a_sweep_is_a_table_and_a_picture(digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    result = run("evaluate", digits, *FEW, "--sweep", "guidance=1,2.5", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "floor  guidance 1.0  guidance 2.5\n" in result.stdout
    (found,) = tmp_path.glob("*.json")
    both = json.loads(found.read_text())["drawn"]
    assert [way["guidance"]["scale"] for way in both] == [1.0, 2.5]
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == [
        f"{found.stem}-closest-1.0.png", f"{found.stem}-closest-2.5.png", f"{found.stem}.png",
    ]  # fmt: skip
    made = read_mark(tmp_path / f"{found.stem}.png")
    assert (made["made_by"], made["options"]["sweep"]) == ("tinyddpm evaluate", "guidance=1,2.5")
    alone = report(digits, *FEW, "--guidance", "2.5", "--out", str(tmp_path))
    assert alone["drawn"][0]["numbers"] == both[1]["numbers"]
    (tmp_path / f"{found.stem}.png").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    again = run("evaluate", digits, *FEW, "--sweep", "guidance=1,2.5", "--out", str(tmp_path))
    assert "note: drawing figures needs matplotlib" in again.stderr
    assert again.stdout.endswith(f"wrote {tmp_path / found.stem}-closest-2.5.png\n")


def test_steps_and_samplers_are_swept_too(digits: str, tmp_path: Path) -> None:
    steps = report(digits, *FEW[:4], "--sweep", "steps=2,4", "--metrics", "frechet", "--out", str(tmp_path))
    assert [way["sampling"]["steps"] for way in steps["drawn"]] == [2, 4]
    names = report(digits, *FEW, "--sweep", "sampler=heun,ddim", "--metrics", "frechet", "--out", str(tmp_path))
    assert [way["sampling"]["name"] for way in names["drawn"]] == ["heun", "ddim"]
    assert steps["training"] is names["training"] is None


def test_points_are_seen_by_their_coordinates(points: str, tmp_path: Path) -> None:
    found = report(points, *FEW, "--out", str(tmp_path))
    assert found["features"]["name"] == "coordinates"
    assert set(found["drawn"][0]["numbers"]) == set(NUMBERS) - {"class obeyed"}
    assert not list(tmp_path.glob("*.png"))


def test_captions_are_asked_for(tmp_path: Path) -> None:
    """Those of the real samples; of the floor, the words are those that neighbours share."""
    rng = np.random.default_rng(5)
    bright = rng.integers(0, 2, 200)
    images = np.clip(60 + 120 * bright[:, None, None] + rng.integers(0, 30, (200, 8, 8)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=images, captions=np.asarray(["dark square", "bright square"])[bright])
    small = (*SIX_STEPS, *NARROW, "--set", "condition.token_width=16", "--condition", "text")
    made = trained(tmp_path / "run", "--data", str(tmp_path / "data.npz"), "--preset", "small", "--no-labels",
                   "--set", "data.image_size='8x8'", "--set", "network.attention='auto'", *small)  # fmt: skip
    found = report(made, "--count", "8", *FEW[2:], "--metrics", "obedience")
    assert found["floor"]["numbers"] == {"words obeyed": 1.0}
    assert 0.5 <= found["drawn"][0]["numbers"]["words obeyed"] <= 1
    assert Path(made, "evaluations").is_dir()


def test_without_what_was_trained_on_there_is_no_memorisation(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    np.save(tmp_path / "data.npy", rng.normal(size=(200, 2)))
    made = trained(tmp_path / "run", "--data", str(tmp_path / "data.npy"), "--preset", "toy", *SIX_STEPS)
    os.rename(tmp_path / "data.npy", tmp_path / "other.npy")
    of_other = [made, *FEW, "--data", str(tmp_path / "other.npy"), "--split", "train"]
    result = run("evaluate", *of_other)
    assert result.exit_code == 0, result.output
    assert "note: without memorisation, which needs the training data: there is no file" in result.stderr
    assert "near training" not in result.stdout
    assert "frechet" in result.stdout
    assert "there is no file or folder" in fails(*of_other, "--metrics", "frechet,memorisation")


def test_errors_are_one_line(digits: str, points: str, tmp_path: Path) -> None:
    assert "unknown metric 'frechett': did you mean 'frechet'" in fails(digits, "--metrics", "frechett")
    assert "unknown feature 'pixel': did you mean 'pixels'" in fails(digits, "--features", "pixel")
    assert "unknown option of metric 'kernel' 'size_'" in fails(digits, "--metric-option", "kernel.size_=3")
    assert "unknown metric 'kernl'" in fails(digits, "--metric-option", "kernl.size=3")
    assert "unknown option of feature 'pixels' 'size'" in fails(digits, "--feature-option", "size=3")
    assert "unknown option of feature 'pixels' 'weights'" in fails(digits, "--weights", "any.pth")
    unfound = fails(digits, "--features", "inception", "--weights", str(tmp_path / "any.pth"))
    assert f"no weights of Inception at {tmp_path / 'any.pth'}: give --weights pt_inception-2015" in unfound
    assert "features 'coordinates' need points" in fails(digits, *FEW, "--features", "coordinates")
    assert "features 'pixels' need uint8 images" in fails(points, *FEW, "--split", "train", "--features", "pixels")
    np.save(tmp_path / "few.npy", np.zeros((3, 2), np.float32))
    few = fails(points, *FEW, "--data", str(tmp_path / "few.npy"), "--split", "train")
    assert "3 samples are too few for two halves: give four or more" in few
    for wrong in ("guidance", "noise=1,2", "steps=a", "guidance=", "steps=1.5"):
        assert "--sweep" in fails(digits, "--sweep", wrong)
    for wrong, why in (
        ("steps=5,100", "chain"),
        ("sampler=ddim,heum", "did you mean 'heun'"),
        ("guidance=1,nan", "scale is nan"),
    ):
        assert why in fails(digits, *FEW[:2], "--sweep", wrong, "--out", str(tmp_path / "s"))
        assert not (tmp_path / "s").exists(), "nothing was drawn before"
    assert "nothing" in fails(str(tmp_path / "nothing"))
    assert "no split 'test'" in fails(digits, "--split", "test")


def test_a_damaged_file_is_named(digits: str, tmp_path: Path) -> None:
    report(digits, *FEW, "--metrics", "frechet", "--out", str(tmp_path))
    (drawn,) = tmp_path.glob("kept/drawn/*/*.npz")
    drawn.write_bytes(drawn.read_bytes()[:50])
    line = fails(digits, *FEW, "--metrics", "frechet", "--out", str(tmp_path))
    assert f"{drawn} cannot be read" in line
    assert "remove it" in line
