"""Training that goes on from what was imported, and what is told of where it came from."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import command_line
from helpers.command_line import NARROW, TWO_STEPS, says
from helpers.torch_openai import Kind, OpenaiUNet
from tinyddpm.backend import load_backend
from tinyddpm.model.load import load_model

pytestmark = pytest.mark.slow

FLAGS = (
    "--image_size 8 --num_channels 32 --num_res_blocks 1 --channel_mult 1 --attention_resolutions 8 --num_heads 1"
    " --timestep_respacing 2"
)
KIND = Kind(32, (1,), 1, rates=(1,), channels_out=3)

train_fails = partial(command_line.fails, "train")


def told(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(says("info", run, "--json"))
    return found


def weights_of(run: Path) -> bytes:
    return bytes(load_model(run, load_backend("numpy"), raw=True)[1].tobytes())


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """A run of digits, out and in again."""
    says("train", *TWO_STEPS, *NARROW, "--average-lengths", "0.1", "--out", tmp_path / "run")
    says("export", tmp_path / "run", tmp_path / "w.npz")
    says("import", tmp_path / "w.npz", "--like", tmp_path / "run", "--out", tmp_path / "in")
    return tmp_path / "in"


def test_an_import_is_trained_further(imported: Path, tmp_path: Path) -> None:
    """By --resume, with its data said, as by --init-from; where it is from is told for good."""
    origin = told(imported)["imported"]
    assert origin["from"] == str(tmp_path / "w.npz")
    says(
        "train", "--init-from", imported, "--data", "digits", "--steps", "3", "--threads", "1", "--out", tmp_path / "a"
    )
    before = weights_of(imported)
    says("train", "--resume", imported, "--data", "digits", "--steps", "3", "--threads", "1")
    assert before != weights_of(imported) == weights_of(tmp_path / "a")
    assert told(tmp_path / "a")["imported"] == told(imported)["imported"] == origin
    assert told(tmp_path / "a")["initial"]["from"] == str(imported)
    says("train", "--resume", imported, "--steps", "4")
    assert (told(imported)["imported"], told(imported)["step"]) == (origin, 4)
    says("average", imported, "--lengths", "0.1")
    assert told(imported / "averages" / "length-0.100.h5")["imported"] == origin
    says("train", "--init-from", tmp_path / "a", "--data", "digits", "--steps", "1", "--out", tmp_path / "b")
    assert told(tmp_path / "b")["imported"] == origin


def openai(folder: Path, flags: str, kind: Kind) -> Path:
    torch.manual_seed(0)
    torch.save(OpenaiUNet(kind).state_dict(), folder / "x.pt")
    says("import", folder / "x.pt", "--flags", f"{FLAGS} {flags}", "--out", folder / "in")
    return folder / "in"


def images(folder: Path, classes: int = 0) -> Path:
    rng = np.random.default_rng(0)
    labels = {"labels": np.arange(160) % classes} if classes else {}
    np.savez(folder / "data.npz", images=rng.integers(0, 256, (160, 8, 8, 3), np.uint8), **labels)
    return folder / "data.npz"


def test_times_that_are_drawn_after_losses_begin_without_any(tmp_path: Path) -> None:
    """As the bound's are, of which an import remembers nothing."""
    run = openai(tmp_path, "--learn_sigma True --use_kl True", replace(KIND, channels_out=6))
    says("train", "--resume", run, "--data", images(tmp_path), "--steps", "1")
    assert told(run)["step"] == 1
    assert load_model(run, load_backend("numpy"))[0].config.training.loss == "vlb"


def test_other_classes_are_refused(tmp_path: Path) -> None:
    """In one line that says how to train on them."""
    run = openai(tmp_path, "--class_cond True", replace(KIND, classes=3))
    error = train_fails("--resume", run, "--data", images(tmp_path, classes=2), "--steps", "1")
    assert "the classes changed" in error
    assert f"--init-from {run}" in error
    says("train", "--resume", run, "--data", images(tmp_path, classes=3), "--steps", "1")
    assert told(run)["classes"] == ["0", "1", "2"]
