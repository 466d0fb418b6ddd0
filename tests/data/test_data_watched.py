"""How far the reading of data is: it is told as it goes, and shown where it takes long."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.command_line import ONE_LEVEL, TWO_STEPS, run
from tinyddpm import progress as progress_module
from tinyddpm.data import fingerprint as fingerprint_module
from tinyddpm.data import open_dataset
from tinyddpm.data.base import ArrayDataset
from tinyddpm.data.fingerprint import fingerprint
from tinyddpm.progress import Progress, late

N = 150


class Told(defaultdict[str, list[tuple[int, int]]]):
    """What a watch is told, by its text."""

    def __init__(self) -> None:
        super().__init__(list)

    def __call__(self, done: int, total: int, text: str) -> None:
        self[text].append((done, total))


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Images with a caption beside each."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(N):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(f"number {number}")
    return folder


def goes_to_the_end(told: list[tuple[int, int]], total: int) -> None:
    """In more than one part, rising."""
    done = [each for each, _ in told]
    assert len(done) > 1
    assert done == sorted(set(done))
    assert done[-1] == total
    assert {of for _, of in told} == {total}


def test_a_folder_is_watched_from_captions_to_pixels(photos: Path) -> None:
    told = Told()
    open_dataset(str(photos), watch=told)
    assert [*told] == ["captions read", "headers of images read", "images decoded"]
    for of_work in told.values():
        goes_to_the_end(of_work, N)


def test_parquet_is_watched_alike(photos: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    files = [path.read_bytes() for path in sorted(photos.glob("*.png"))]
    parquet.write_table(pyarrow.table({"image": pyarrow.array(files, pyarrow.binary())}), tmp_path / "x.parquet")
    told = Told()
    open_dataset(str(tmp_path / "x.parquet"), watch=told)
    assert [*told] == ["headers of images read", "images decoded"]
    for of_work in told.values():
        goes_to_the_end(of_work, N)


def test_hashing_is_watched_and_hashes_the_same(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """What is drawn as it is read, such as emoji, is drawn then."""
    monkeypatch.setattr(fingerprint_module, "AT_ONCE", 7 * 64)
    dataset, told = ArrayDataset(rng.integers(0, 256, (N, 8, 8), np.uint8), name="noise"), Told()
    assert fingerprint(dataset, told) == fingerprint(dataset)
    goes_to_the_end(told["samples read"], N)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_said_of_what_is_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each work anew: one that takes long does not make the next one speak."""
    clock, stream = Clock(), Terminal()
    monkeypatch.setattr(progress_module.time, "monotonic", clock)
    with late(Progress(stream)) as watch:
        for work, seconds in (("quick", 0.9), ("slow", 2.0), ("quick again", 0.9)):
            for done in range(1, 101):
                clock.now += seconds / 100
                watch(done, 100, work)
    lines = [line.split() for line in stream.getvalue().split("\r")[1:]]
    assert {text for _, text in lines} == {"slow"}
    assert 50 <= int(lines[0][0].split("/")[0]) <= 55
    assert lines[-1][0] == "100/100"


def test_the_line_of_reading_that_failed_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "PATIENCE", 0.0)
    stream = Terminal()

    def fail() -> None:
        with late(Progress(stream)) as watch:
            watch(1, 2, "images decoded")
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    assert stream.getvalue().endswith("\n")


@pytest.mark.slow
def test_commands_show_how_far_reading_is(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "PATIENCE", 0.0)
    tiny = [*TWO_STEPS, *ONE_LEVEL, "--preset", "small", "--image-size", "8"]
    made = str(tmp_path / "run")
    dry = run("train", "--data", photos, "--dry-run", *tiny)
    trained = run("train", "--data", photos, "--out", made, *tiny)
    resumed = run("train", "--resume", made, "--steps", "3")
    bits = run("nll", made, "--count", "2")
    judged = run("evaluate", made, "--count", "4", "--metrics", "frechet,memorisation")
    for command in (dry, trained, resumed, bits, judged):
        assert command.exit_code == 0, command.output
        assert f"{N}/{N}" not in command.stdout
        assert "images decoded" in command.stderr
    for command in (trained, resumed):
        assert f"{N}/{N}  images decoded" in command.stderr
        assert command.stderr.index("images decoded") < command.stderr.index("computed by")
    assert judged.stderr.count(f"{N}/{N}  images decoded") == 2  # the real ones and what the run trained on
