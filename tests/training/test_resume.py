"""What may change when a run goes on, what it keeps beside its last checkpoint, and runs that start from others."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyddpm
from helpers import command_line
from helpers.command_line import says
from helpers.runs import POINTS, loaded
from tinyddpm.backend import load_backend
from tinyddpm.errors import CheckpointError
from tinyddpm.model.checkpoint import Checkpoint, save_checkpoint
from tinyddpm.model.config import Config
from tinyddpm.model.load import checkpoint_file, kept_steps, layout_of
from tinyddpm.model.model import Model
from tinyddpm.progress import Progress
from tinyddpm.training.edited import with_changes
from tinyddpm.training.initial import Initial
from tinyddpm.training.run import resume, start

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")
train_fails = partial(command_line.fails, "train")

SETTINGS = POINTS.updated(
    {
        "data": {"labels": True},
        "training": {
            "steps": 6, "batch_size": 16, "warmup": 2, "ema": 0.5, "threads": 1,
            "log_every": 2, "validate_every": 2, "save_every": 2, "sample_every": 1000,
        },
    }
)  # fmt: skip


def config(**training: Any) -> Config:
    return SETTINGS.updated({"training": training})


def trained(folder: Path, initial: Initial | None = None, said: StringIO | None = None, **training: Any) -> Path:
    start(config(**training), NUMPY, folder, Progress(said or StringIO()), initial=initial)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps, of which each second is saved and kept."""
    return trained(tmp_path_factory.mktemp("run") / "run", keep=10)


def copied(run: Path, folder: Path) -> Path:
    """The run, to be gone on with."""
    folder.mkdir()
    for path in run.iterdir():
        if path.suffix in (".h5", ".toml", ".jsonl", ".json"):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


# What may change


def test_data_may_lie_elsewhere(tmp_path: Path) -> None:
    """The same points under another path are gone on with; others are refused, and nothing is written."""
    points = np.random.default_rng(0).standard_normal((200, 2)).astype(np.float32)
    np.save(tmp_path / "here.npy", points)
    np.save(tmp_path / "there.npy", points)
    np.save(tmp_path / "other.npy", points + 1)
    settings = SETTINGS.updated({"data": {"source": str(tmp_path / "here.npy"), "labels": False}})
    start(settings, NUMPY, tmp_path / "run", Progress(StringIO()))
    (tmp_path / "here.npy").unlink()
    before = (tmp_path / "run" / "config.toml").read_bytes()
    line = train_fails("--resume", tmp_path / "run", "--steps", 8, "--data", tmp_path / "other.npy")
    assert "was trained on other data" in line
    assert (tmp_path / "run" / "config.toml").read_bytes() == before
    says("train", "--resume", tmp_path / "run", "--steps", 8, "--data", tmp_path / "there.npy")
    assert loaded(tmp_path / "run").step == 8
    assert loaded(tmp_path / "run").config["data"]["source"] == str(tmp_path / "there.npy")


def test_how_often_things_are_done_may_change(run: Path, tmp_path: Path) -> None:
    """The steps that follow are the straight run's, bit for bit."""
    straight, folder = trained(tmp_path / "straight", steps=9), copied(run, tmp_path / "run")
    changes = {"steps": 9, "log_every": 1, "validate_every": 5, "save_every": 1, "sample_every": 500, "keep": 1}
    resume(folder, Progress(StringIO()), **changes)
    assert loaded(folder).weights.tobytes() == loaded(straight).weights.tobytes()
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "loss" in line][-3:] == [7, 8, 9]
    written = Config.from_dict(loaded(folder).config).training
    assert {name: getattr(written, name) for name in changes} == changes


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"threads": 2}, "from here on 2 threads share a batch, and no longer 1: sums are in another order"),
        ({"learning_rate": 5e-4}, "from here on the learning rate is 0.0005, and no longer 0.001"),
        ({"backend": "torch"}, "from here on steps are computed by torch in fp32, and no longer by numpy in fp32: "),
    ],
)
def test_what_changes_numbers_is_said(run: Path, tmp_path: Path, changes: dict[str, Any], note: str) -> None:
    pytest.importorskip(changes.get("backend", "numpy"), reason="Torch is not installed")
    said, folder = StringIO(), copied(run, tmp_path / "run")
    resume(folder, Progress(said), steps=7, **changes)
    assert f"note: {note}" in said.getvalue()


def test_threads_for_all_cores_are_counted_and_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run asks for as many threads as there are cores: where it goes on later, it keeps this number."""
    monkeypatch.setattr(type(NUMPY), "threads", lambda self, wanted: wanted or 3)
    said, folder = StringIO(), copied(run, tmp_path / "run")
    resume(folder, Progress(said), steps=7, threads=0)
    assert "note: from here on 3 threads share a batch, and no longer 1: " in said.getvalue()
    assert loaded(folder).config["training"]["threads"] == 3


def test_a_run_that_has_not_counted_its_threads_does(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was imported: nothing is said of threads that it had before."""
    monkeypatch.setattr(type(NUMPY), "threads", lambda self, wanted: wanted or 3)
    said, folder, checkpoint = StringIO(), copied(run, tmp_path / "run"), loaded(run)
    checkpoint.config["training"]["threads"] = 0
    save_checkpoint(folder / "checkpoint.h5", checkpoint, layout_of(NUMPY)(checkpoint))
    (folder / "config.toml").unlink()
    resume(folder, Progress(said), steps=7)
    assert "threads share a batch" not in said.getvalue()
    assert loaded(folder).config["training"]["threads"] == 3


@pytest.mark.parametrize(("changes", "threads"), [({}, 2), ({"threads": 3}, 3)])
def test_threads_that_are_given_are_those_of_each_rank(
    run: Path, tmp_path: Path, changes: dict[str, Any], threads: int
) -> None:
    """Two ranks of a thread each go on as a process of two threads, unless another number is given."""
    folder, checkpoint = copied(run, tmp_path / "run"), loaded(run)
    checkpoint.state["ranks"] = 2
    save_checkpoint(folder / "checkpoint.h5", checkpoint, layout_of(NUMPY)(checkpoint))
    resume(folder, Progress(StringIO()), steps=7, **changes)
    assert loaded(folder).config["training"]["threads"] == threads


@pytest.mark.parametrize(
    ("rate", "falls"), [("linear", True), ("cosine", True), ("constant", False), ("inverse-sqrt", False)]
)
def test_a_falling_rate_that_is_stretched_is_said(tmp_path: Path, rate: str, falls: bool) -> None:
    """A rate that is a function of the step alone is not stretched."""
    start(config().updated({"rate": {"name": rate}}), NUMPY, tmp_path / "run", Progress(StringIO()))
    said = StringIO()
    resume(tmp_path / "run", Progress(said), steps=20)
    assert ("note: from here on the learning rate falls to step 20, and no longer to 6\n" in said.getvalue()) == falls


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--batch-size", 8], r"a run keeps training.batch_size \(it was 16\): only "),
        (["--schedule", "linear"], r"a run keeps schedule.name \(it was 'cosine'\): only "),
        (["--rate", "cosine"], r"a run keeps rate.name \(it was 'constant'\): only "),
    ],
)
def test_all_else_is_refused_with_what_to_do(run: Path, tmp_path: Path, given: list[Any], kept: str) -> None:
    """The settings that may be given are named by their flags, and so is a run that starts from the weights."""
    folder = copied(run, tmp_path / "run")
    line = train_fails("--resume", folder, "--steps", 9, *given)
    assert re.search(kept, line)
    assert "--validate-every" in line
    assert f"; or start another run from its weights with --init-from {folder}" in line
    assert loaded(folder).step == 6


def test_a_setting_that_is_given_as_it_was_changes_nothing(run: Path, tmp_path: Path) -> None:
    says("train", "--resume", copied(run, tmp_path / "run"), "--steps", 7, "--batch-size", 16)
    assert loaded(tmp_path / "run").step == 7


def test_what_is_no_setting_is_refused(run: Path) -> None:
    assert "so --out, --preset cannot be given with it" in train_fails("--resume", run, "--out", "x", "--preset", "toy")
    assert "so TINYDDPM_OUT cannot be given with it" in train_fails("--resume", run, env={"TINYDDPM_OUT": "x"})


@pytest.mark.parametrize(
    ("changes", "device", "precision"),
    [
        ({"steps": 9}, "cuda:1", "bf16"),
        ({"backend": "torch"}, "cuda:1", "bf16"),
        ({"backend": "torch", "device": "cuda:1"}, "cuda:1", "bf16"),
        ({"device": "cuda:0"}, "cuda:0", "fp32"),
        ({"backend": "numba"}, None, "fp32"),
        ({"backend": "torch", "device": "cuda:0", "precision": "tf32"}, "cuda:0", "tf32"),
    ],
)
def test_another_backend_or_device_computes_in_its_own_way(
    changes: dict[str, Any], device: str | None, precision: str
) -> None:
    """What only the one before had is not asked of it; the same one, given again, goes on as it did."""
    before = config().updated({"backend": "torch", "device": "cuda:1", "precision": "bf16"})
    found = with_changes(before, changes, Path("run"))
    assert (found.device, found.precision) == (device, precision)


def test_a_part_of_another_version_is_told(run: Path, tmp_path: Path) -> None:
    folder, checkpoint, said = copied(run, tmp_path / "run"), loaded(run), StringIO()
    checkpoint.plugins[0]["version"] = "0.0.1"
    save_checkpoint(folder / "checkpoint.h5", checkpoint, layout_of(NUMPY)(checkpoint))
    resume(folder, Progress(said), steps=7)
    assert re.search(
        r"note: network 'mlp' is from tinyddpm \S+; the checkpoint was written with tinyddpm 0\.0\.1", said.getvalue()
    )


# What is kept


def test_the_last_checkpoint_has_its_step_for_a_name_too(tmp_path: Path) -> None:
    """Where no other is kept."""
    run = trained(tmp_path / "run")
    assert kept_steps(run) == []
    assert checkpoint_file(Path(f"{run}@6")) == run / "checkpoint.h5"


def test_checkpoints_are_kept_by_their_steps(run: Path, tmp_path: Path) -> None:
    """Each is what the run had saved then, bit for bit; RUN@STEP names it, for every command."""
    assert kept_steps(run) == [2, 4, 6]
    short = trained(tmp_path / "short", steps=4)
    at_4 = Path(f"{run}@4")
    assert loaded(at_4).step == 4
    assert loaded(at_4).weights.tobytes() == loaded(short).weights.tobytes()
    assert '"step": 4' in says("info", at_4, "--json")
    for step in (2, 4):
        says("sample", f"{run}@{step}", "--count", 2, "--npz", "--out", tmp_path / str(step))
        assert f'"step": {step}' in says("info", tmp_path / str(step) / "samples.npz", "--json")


def test_the_oldest_go_first(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    resume(folder, Progress(StringIO()), steps=10, keep=2)
    assert kept_steps(folder) == [8, 10]


def test_a_run_goes_on_from_what_it_kept(run: Path, tmp_path: Path) -> None:
    """From step 2 it comes to the same step 6 again."""
    folder = copied(run, tmp_path / "run")
    (folder / "checkpoint.h5").unlink()
    resume(folder / "checkpoint-0000002.h5", Progress(StringIO()))
    assert loaded(folder).weights.tobytes() == loaded(run).weights.tobytes()


def test_a_run_that_went_on_from_what_it_kept_is_named_by_its_folder(run: Path, tmp_path: Path) -> None:
    """Where it went on to is there, and not in the checkpoint that it went on from."""
    folder = copied(run, tmp_path / "run")
    for earlier in (f"{folder}@4", folder / "checkpoint-0000002.h5"):
        assert f"trained 6 steps: {folder}\n" in says("train", "--resume", earlier)
        assert tinyddpm.resume(earlier, progress=False).step == 6


def test_the_best_is_of_the_least_validation_loss(tmp_path: Path) -> None:
    """Over 12 steps at a rate that diverges slowly, the least loss is not the last; a resumed run remembers it."""
    settings = {"learning_rate": 0.3, "validate_every": 1, "save_every": 5, "warmup": 0, "keep_best": True}
    run = trained(tmp_path / "run", steps=12, **settings)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    best = min(losses, key=lambda step: losses[step])
    assert best < 12, "choose a rate at which the last step is not the best"
    found = loaded(Path(f"{run}@best"))
    assert (found.step, found.state["validation"]) == (best, losses[best])
    resume(run, Progress(StringIO()), steps=14)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    assert loaded(Path(f"{run}@best")).step == min(losses, key=lambda step: losses[step])


def test_where_there_are_no_links_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError("this file system has no links")

    monkeypatch.setattr(os, "link", none)
    run = trained(tmp_path / "run", keep=2, keep_best=True)
    assert kept_steps(run) == [4, 6]
    assert loaded(Path(f"{run}@6")).weights.tobytes() == loaded(run).weights.tobytes()
    assert loaded(Path(f"{run}@best")).step in (2, 4, 6)


@pytest.mark.parametrize(
    ("which", "line"),
    [
        ("3", "has no checkpoint '3': it has those of steps 2, 4, 6; --keep N keeps more"),
        ("first", "has no checkpoint 'first': it has those of steps 2, 4, 6"),
        ("best", "keeps no best checkpoint: train with --keep-best, or resume with it"),
    ],
)
def test_a_checkpoint_that_is_not_there(run: Path, which: str, line: str) -> None:
    for command in ("sample", "info"):
        assert f"{run} {line}" in command_line.fails(command, f"{run}@{which}")


def test_a_folder_may_have_an_at_in_its_name(run: Path, tmp_path: Path) -> None:
    copied(run, tmp_path / "run@4")
    assert loaded(tmp_path / "run@4").step == 6


# Runs that start from others


def test_a_run_starts_from_the_average_or_the_weights_of_another(run: Path, tmp_path: Path) -> None:
    """With a rate of nothing, what was given is what is there after a step: weights and average both."""
    for raw in (False, True):
        found = loaded(trained(tmp_path / f"raw-{raw}", Initial(run, raw=raw), learning_rate=0.0, steps=1))
        expected = loaded(run).weights if raw else loaded(run).ema
        assert found.step == 1
        np.testing.assert_array_equal(found.weights, expected)
        np.testing.assert_allclose(found.ema, expected, rtol=1e-6)
        assert np.any(found.adam_m != 0)
        assert found.state["initial"] == {"from": str(run), "weights": "raw" if raw else "average", "step": "6"}
    assert np.any(loaded(run).weights != loaded(run).ema)
    assert f"from {run}" in says("info", tmp_path / "raw-True")


def test_where_it_began_is_told_after_it_was_resumed(run: Path, tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", Initial(run), steps=1)
    resume(folder, Progress(StringIO()), steps=2)
    assert loaded(folder).state["initial"]["from"] == str(run)


def test_other_settings_are_those_of_the_run_that_it_starts_from(run: Path, tmp_path: Path) -> None:
    """The network needs not be said again; what is given is new."""
    says("train", "--init-from", run, "--out", tmp_path / "b", "--steps", 1, "--learning-rate", 0.25, "--threads", 1)
    found, before = (Config.from_dict(loaded(folder).config) for folder in (tmp_path / "b", run))
    assert found.network == before.network
    assert found.schedule == before.schedule
    assert (found.training.learning_rate, found.training.steps) == (0.25, 1)


def test_what_does_not_fit_is_listed_and_left_out_if_asked(run: Path, tmp_path: Path) -> None:
    """A network of two blocks takes what it can from one of one: all but the second block's parameters."""
    deeper = config(steps=1, learning_rate=0.0).updated({"network": {"depth": 2}})
    with pytest.raises(CheckpointError, match=r"does not fit: .* is missing.* leave out what .* with --init-p"):
        start(deeper, NUMPY, tmp_path / "refused", Progress(StringIO()), initial=Initial(run))
    assert not (tmp_path / "refused").exists()
    said = StringIO()
    start(deeper, NUMPY, tmp_path / "taken", Progress(said), initial=Initial(run, partly=True))
    found, there = loaded(tmp_path / "taken"), loaded(run)
    layouts = [Model(Config.from_dict(c.config), c.sample_shape, c.classes, NUMPY).layout for c in (found, there)]
    ours, theirs = (layout.views(c, np) for layout, c in zip(layouts, (found.weights, there.ema), strict=True))
    fresh = layouts[0].views(layouts[0].initialise(0), np)
    new = ours.keys() - theirs.keys()
    assert new
    for path, view in ours.items():
        np.testing.assert_array_equal(view, fresh[path] if path in new else theirs[path], path)
    assert f"note: {len(theirs)} of {len(ours)} parameters start as in {run}" in said.getvalue()
    back = loaded(
        trained(tmp_path / "back", Initial(tmp_path / "taken", raw=True, partly=True), steps=1, learning_rate=0.0)
    )
    np.testing.assert_array_equal(back.weights, there.ema, "what is left out in between is skipped")


def test_what_fits_nowhere_is_refused(run: Path, tmp_path: Path) -> None:
    other = config(steps=1).updated({"network": {"width": 4}})
    theirs = Model(other, (3,), (), NUMPY).layout
    zeros = np.zeros(theirs.size, np.float32)
    told = {"config": other.to_dict(), "step": 0, "sample_shape": (3,), "classes": (), "plugins": []}
    there = Checkpoint(**told, weights=zeros, ema=zeros, adam_m=zeros, adam_v=zeros)
    save_checkpoint(tmp_path / "c.h5", there, list(zip(theirs.paths, theirs.shapes, strict=True)))
    with pytest.raises(CheckpointError, match="has none of the parameters of this network"):
        trained(tmp_path / "x", Initial(tmp_path / "c.h5", partly=True))


def test_flags_that_say_how_without_which(run: Path) -> None:
    assert "say which run to start from" in train_fails("--init-partly")
    assert "nowhere" in train_fails("--init-from", "nowhere")


def test_the_python_face_starts_from_another_run_too(run: Path, tmp_path: Path) -> None:
    points = np.random.default_rng(0).standard_normal((60, 2)).astype(np.float32)
    given: dict[str, Any] = {"steps": 1, "learning_rate": 0.0, "out": tmp_path / "run", "progress": False}
    model = tinyddpm.train(points, labels=np.arange(60) % 2, init_from=run, init_raw=True, **given)
    assert model.step == 1
    np.testing.assert_array_equal(loaded(tmp_path / "run").weights, loaded(run).weights)


# What a run's length leaves undone


@pytest.mark.parametrize(
    ("training", "notes"),
    [
        ({"steps": 6, "warmup": 6, "ema": 0.5}, ["the run ends at step 6, within its warm-up of 6"]),
        ({"steps": 6, "warmup": 2, "ema": 0.99}, ["the average of the weights looks back over 100 steps"]),
        ({"steps": 6, "warmup": 2, "ema": 0.5}, []),
    ],
)
def test_a_run_too_short_for_its_settings_says_so(training: dict[str, Any], notes: list[str], tmp_path: Path) -> None:
    said = StringIO()
    trained(tmp_path / "run", said=said, **training)
    told = [line for line in said.getvalue().splitlines() if line.startswith("note: ")]
    assert len(told) == len(notes)
    for line, note in zip(told, notes, strict=True):
        assert note in line
