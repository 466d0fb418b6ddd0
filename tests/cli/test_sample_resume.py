"""`sample` stopped, killed or out of room: what was drawn is kept, and the rest is drawn by `--resume`."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.command_line import NARROW, TWO_STEPS, fails, run
from tinyddpm.model.model import Model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("here")]

EIGHT = ["--count", "8", "--batch-size", "2", "--sample-steps", "3", "--npz", "--gif"]
"""Four batches."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run("train", "--out", folder, *TWO_STEPS, *NARROW, "--threads", "1").exit_code == 0
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def straight(trained: Path, here: Path) -> dict[str, bytes]:
    """What a run that nobody stops writes."""
    assert run("sample", str(trained), *EIGHT, "--out", "straight").exit_code == 0
    return files(here / "straight")


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the samples that are drawn."""
    drawn: list[int] = []
    sample = Model.sample

    def noted(model: Model, weights: Any, samples: np.ndarray, *given: Any) -> Iterator[Any]:
        drawn.extend(samples)
        return sample(model, weights, samples, *given)

    monkeypatch.setattr(Model, "sample", noted)
    return drawn


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal(
    number: signal.Signals,
    code: int,
    trained: Path,
    straight: dict[str, bytes],
    numbers: list[int],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the third batch. Another batch size draws what is left, and all files are those of a straight run."""
    noted = Model.sample

    def stopped(*given: Any) -> Iterator[Any]:
        if len(numbers) == 4:
            signal.raise_signal(number)
        return noted(*given)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "sample", stopped)
        result = run("sample", str(trained), *EIGHT, "--out", "out")
    assert result.exit_code == code
    assert result.stderr.splitlines()[-1] == (
        f"stopped by {number.name}; 4 of 8 samples are kept: go on with --resume --out out"
    )
    assert "holds stopped samples: go on with --resume" in fails("sample", str(trained), *EIGHT, "--out", "out")
    numbers.clear()
    assert run("sample", str(trained), *EIGHT, "--batch-size", "3", "--out", "out", "--resume").exit_code == 0
    assert numbers == [4, 5, 6, 7]
    assert files(here / "out") == straight


def test_stopped_before_anything_was_drawn(trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Model.sample

    def stopped(*given: Any) -> Iterator[Any]:
        signal.raise_signal(signal.SIGTERM)
        return sample(*given)

    monkeypatch.setattr(Model, "sample", stopped)
    result = run("sample", str(trained), *EIGHT, "--out", "out")
    assert result.exit_code == 143
    assert result.stderr.splitlines()[-1] == "stopped by SIGTERM; 0 of 8 samples are kept"
    assert not (here / "out").exists()


def test_killed(trained: Path, here: Path) -> None:
    """By SIGKILL once two batches are kept: they stay as they are, and the files are those of a straight run."""
    many = ["sample", str(trained), "--count", "60", "--batch-size", "2", "--singles"]
    assert run(*many, "--out", "straight").exit_code == 0
    command = [sys.executable, "-m", "tinyddpm", *many, "--out", "out"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(kept := list(here.glob("out/kept/*/*.npz"))) < 2 and process.poll() is None:
            time.sleep(0.005)
        process.kill()
    assert 2 <= len(kept) < 30
    assert run(*many, "--out", "out", "--resume").exit_code == 0
    assert files(here / "out") == files(here / "straight")


@pytest.mark.parametrize("of", ["a batch", "the animation"])
def test_without_room(
    of: str, trained: Path, straight: dict[str, bytes], numbers: list[int], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is full at the third batch, or when all is drawn: what is kept is said, and is not drawn again."""

    def full(*given: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    savez = np.savez

    def filling(stream: Any, **given: Any) -> None:
        if len(numbers) == 6:
            full()
        savez(stream, **given)

    with monkeypatch.context() as patch:
        if of == "a batch":
            patch.setattr(np, "savez", filling)
        else:
            patch.setattr("PIL.Image.Image.save", full)
        line = fails("sample", str(trained), *EIGHT, "--out", "out")
    left = 4 if of == "a batch" else 8
    assert line.endswith(
        "No space left on device; make room, or choose another place; "
        f"{left} of 8 samples are kept: go on with --resume --out out"
    )
    numbers.clear()
    assert run("sample", str(trained), *EIGHT, "--out", "out", "--resume").exit_code == 0
    assert numbers == list(range(left, 8))
    assert files(here / "out") == straight


def test_what_is_not_the_same_is_refused(
    trained: Path, numbers: list[int], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed, or other steps, is no going on; more samples are, and those that are there are not drawn again."""
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path: None)
        run("sample", str(trained), *EIGHT[:-1], "--out", "out")
    for change in (["--seed", "1"], ["--sample-steps", "2"], ["--raw"]):
        line = fails("sample", str(trained), *EIGHT[:-1], *change, "--out", "out", "--resume")
        assert "holds samples of another command" in line
    assert "holds no stopped samples" in fails("sample", str(trained), "--out", "other", "--resume")
    numbers.clear()
    more = ["--count", "10", "--first", "1"]
    assert run("sample", str(trained), *EIGHT[:-1], *more, "--out", "out", "--resume").exit_code == 0
    assert numbers == [8, 9, 10]
    assert not (here / "out" / "kept").exists()
