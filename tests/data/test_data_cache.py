"""Decoded images that are kept: a second start decodes nothing, and what is kept is never a wrong reading."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tinyddpm
from helpers.command_line import ONE_LEVEL, TWO_STEPS, run, says
from tinyddpm.data import cache, open_dataset
from tinyddpm.data.base import ArrayDataset, Dataset
from tinyddpm.data.fingerprint import fingerprint
from tinyddpm.data.image_files import ImageFiles
from tinyddpm.errors import DataError, TinyDDPMWarning
from tinyddpm.training.record import read_record

N = 9


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where images are kept, however quickly they are decoded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "WORTH", 0.0)
    return tmp_path / "cache" / "tinyddpm" / "images"


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Two classes of images of several sizes, with a transparent corner, and a caption beside each."""
    for number in range(N):
        folder = tmp_path / "photos" / ("cat" if number < 4 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 256, (8 + number % 2, 8, 4), np.uint8)
        image[:4, :4, 3] = 0
        Image.fromarray(image).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"number {number}")
    return tmp_path / "photos"


def opened(photos: Path, **options: Any) -> Dataset:
    return open_dataset(str(photos), **{"image_size": (6, 6), "cache": True, **options})


def read(dataset: Dataset) -> np.ndarray:
    return dataset.read(np.arange(len(dataset)))


def is_from_cache(dataset: Dataset) -> bool:
    assert isinstance(dataset, ArrayDataset)
    return dataset.origin.startswith("decoded before")


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFiles, "__init__", fail)


def test_a_second_start_decodes_nothing_and_finds_the_same(
    photos: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without, first = opened(photos, cache=False), opened(photos)
    forbid_decoding(monkeypatch)
    second = opened(photos)
    assert isinstance(first, ArrayDataset)
    assert first.origin == f"decoded and kept in {kept}"
    assert isinstance(second, ArrayDataset)
    assert second.origin == f"decoded before, from {kept}"
    for dataset in (first, second):
        np.testing.assert_array_equal(read(dataset), read(without))
        assert dataset.description == without.description
        assert "cropped and shrunk from 2 sizes, 8x8 to 9x8, to 6x6" in dataset.description
        assert fingerprint(dataset) == fingerprint(without)
        assert dataset.columns["text"].tolist() == [f"number {k}" for k in range(N)]
        assert dataset.classes == ("cat", "dog")
        np.testing.assert_array_equal(dataset.labels, [0] * 4 + [1] * 5)


def test_frames_of_a_file_keep_their_labels(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is left out is said each time."""
    for name, count in (("a", 3), ("b", 1), ("c", 2)):
        (tmp_path / "gifs" / name).mkdir(parents=True)
        first, *rest = [Image.fromarray(np.full((5, 5), 40 * k + 90, np.uint8)) for k in range(count)]
        first.save(tmp_path / "gifs" / name / "x.gif", save_all=True, append_images=rest)
    options = {"image_size": None, "options": {"frames": "all"}}
    decoded = opened(tmp_path / "gifs", **options)
    with pytest.warns(TinyDDPMWarning, match="3 of 6 images are used; 3 are further frames"):
        opened(tmp_path / "gifs", image_size=None)
    forbid_decoding(monkeypatch)
    again = opened(tmp_path / "gifs", **options)
    np.testing.assert_array_equal(again.labels, [0, 0, 0, 1, 2, 2])
    np.testing.assert_array_equal(read(again), read(decoded))
    with pytest.warns(TinyDDPMWarning, match="3 of 6 images are used; 3 are further frames"):
        opened(tmp_path / "gifs", image_size=None)


def test_parquet_is_kept_too(photos: Path, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    files = [path.read_bytes() for path in sorted(photos.rglob("*.png"))]
    table = pyarrow.table({"image": pyarrow.array(files, pyarrow.binary()), "label": [*range(3)] * 3})
    (tmp_path / "data").mkdir()
    parquet.write_table(table, tmp_path / "data" / "train.parquet")
    before = opened(tmp_path / "data")
    with monkeypatch.context() as patched:
        forbid_decoding(patched)
        after = opened(tmp_path / "data")
    np.testing.assert_array_equal(read(after), read(before))
    np.testing.assert_array_equal(after.labels, before.labels)
    parquet.write_table(table.slice(0, 6), tmp_path / "data" / "train.parquet")
    assert len(opened(tmp_path / "data")) == 6


def another_time(photos: Path) -> None:
    stat = (photos / "cat" / "1.png").stat()
    os.utime(photos / "cat" / "1.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def another_image(photos: Path) -> None:
    shutil.copy(photos / "cat" / "2.png", photos / "cat" / "1.png")


def another_size(photos: Path) -> None:
    stat = (photos / "cat" / "1.png").stat()
    another_image(photos)
    os.utime(photos / "cat" / "1.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))


def one_more(photos: Path) -> None:
    shutil.copy(photos / "cat" / "2.png", photos / "cat" / "9.png")
    (photos / "cat" / "9.txt").write_text("one more")


def one_less(photos: Path) -> None:
    (photos / "dog" / "8.png").unlink()


def renamed(photos: Path) -> None:
    (photos / "dog" / "8.png").rename(photos / "dog" / "0.png")
    (photos / "dog" / "8.txt").rename(photos / "dog" / "0.txt")


@pytest.mark.parametrize("change", [another_time, another_image, another_size, one_more, one_less, renamed])
def test_other_files_are_decoded(photos: Path, kept: Path, change: Any) -> None:
    opened(photos)
    change(photos)
    found = opened(photos)
    assert not is_from_cache(found)
    np.testing.assert_array_equal(read(found), read(opened(photos, cache=False)))


@pytest.mark.parametrize(
    "other", [{"image_size": (6, 5)}, {"options": {"background": "red"}}, {"options": {"levels": "-9:255"}}]
)
def test_another_reading_is_decoded(photos: Path, kept: Path, other: dict[str, Any]) -> None:
    before = opened(photos)
    found = opened(photos, **other)
    assert not is_from_cache(found)
    assert not np.array_equal(read(found), read(before))
    assert is_from_cache(opened(photos, **other))
    assert is_from_cache(opened(photos))


def test_captions_are_read_of_their_files_each_time(photos: Path, kept: Path) -> None:
    opened(photos)
    (photos / "cat" / "0.txt").write_text("another")
    found = opened(photos)
    assert is_from_cache(found)
    assert found.columns["text"][0] == "another"


@pytest.mark.slow
def test_damage_is_never_read(photos: Path, kept: Path, rng: np.random.Generator) -> None:
    """Any byte changed, any end cut off: it is decoded anew, and kept whole again."""
    truth = read(opened(photos))
    for path in sorted(kept.iterdir()):
        whole = path.read_bytes()
        header = 128 if path.suffix == ".npy" else len(whole)
        places = {*range(0, header, 5), *rng.integers(0, len(whole), 40).tolist()}
        wrongs = [whole[:k] + bytes([whole[k] ^ (1 << int(rng.integers(8)))]) + whole[k + 1 :] for k in places]
        wrongs += [whole[: int(k)] for k in rng.integers(0, len(whole), 10)] + [b"", b"[]", b"[" * 10_000, b"null"]
        for wrong in wrongs:
            path.write_bytes(wrong)
            found = opened(photos)
            np.testing.assert_array_equal(read(found), truth)
            if is_from_cache(found):  # another space in JSON, or the spelling of a number in the header
                assert path.suffix == ".json" or wrong[:128] != whole[:128]
            assert is_from_cache(opened(photos))
            path.write_bytes(whole)


def test_what_is_foreign_is_never_read(photos: Path, tmp_path: Path, kept: Path) -> None:
    """Another data set's, under this one's name; no files; a pickle."""
    truth = read(opened(photos))
    images, about = (next(kept.glob(f"*{suffix}")) for suffix in (".npy", ".json"))
    shutil.copytree(photos, tmp_path / "others")
    another_image(tmp_path / "others")
    opened(tmp_path / "others")
    for mine in (images, about):
        (other,) = (path for path in kept.glob(f"*{mine.suffix}") if path != mine)
        shutil.copy(other, mine)
    found = opened(photos)
    assert not is_from_cache(found)
    np.testing.assert_array_equal(read(found), truth)

    images.unlink()
    os.mkfifo(images)
    np.testing.assert_array_equal(read(opened(photos)), truth)
    images.unlink()
    images.mkdir()
    with pytest.warns(TinyDDPMWarning, match="decoded images are not kept for the next start: cannot write"):
        np.testing.assert_array_equal(read(opened(photos)), truth)
    images.rmdir()
    np.save(images, np.asarray([{}], object), allow_pickle=True)
    np.testing.assert_array_equal(read(opened(photos)), truth)


def test_a_folder_that_cannot_be_written_is_a_note(photos: Path, kept: Path) -> None:
    kept.parent.parent.write_text("no folder")
    with pytest.warns(TinyDDPMWarning) as notes:
        found = opened(photos)
    (note,) = notes
    assert str(note.message).startswith("decoded images are not kept for the next start: cannot write")
    assert str(note.message).endswith("or give --no-cache")
    assert not is_from_cache(found)


def test_whoever_has_no_home_keeps_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch, here_alone: Path) -> None:
    monkeypatch.setattr(cache, "WORTH", 0.0)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    for place in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", place)
        assert not is_from_cache(opened(photos))
        assert not is_from_cache(opened(photos))
    assert not [*here_alone.iterdir()]


@pytest.fixture
def here_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_what_was_used_longest_ago_goes_first(photos: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is made before anything is written, by as much as is needed; what is in use stays in use."""
    size = N * 6 * 6 * 3 + 128
    monkeypatch.setattr(cache, "LIMIT", 3 * size)

    def in_red(level: int) -> Dataset:
        return opened(photos, options={"background": f"#{level:02x}0000"})

    first = in_red(0)
    whole = read(first)
    for level in (1, 2):
        in_red(level)
    for age, path in enumerate(sorted(kept.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (1e9 + age, 1e9 + age))
    used = in_red(0)
    assert is_from_cache(used)
    in_red(3)  # in the place of 1
    assert len([*kept.iterdir()]) == 6
    assert sum(path.stat().st_size for path in kept.glob("*.npy")) <= 3 * size
    in_red(4)  # of 2
    assert is_from_cache(in_red(0))
    assert is_from_cache(in_red(3))
    monkeypatch.setattr(cache, "LIMIT", size)
    in_red(5)
    assert len([*kept.glob("*.npy")]) == 1
    np.testing.assert_array_equal(read(used), whole)
    monkeypatch.setattr(cache, "LIMIT", size // 2)
    assert in_red(6).origin == ""  # type: ignore[attr-defined]
    assert is_from_cache(in_red(5))


def test_what_is_decoded_quickly_is_not_kept(photos: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WORTH", math.inf)
    for _ in range(2):
        assert opened(photos).origin == ""  # type: ignore[attr-defined]
    assert not kept.exists()


def test_what_is_broken_is_not_kept(photos: Path, kept: Path) -> None:
    (photos / "cat" / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"1\.png"):
        opened(photos)
    assert not kept.exists()


@pytest.mark.slow
def test_several_processes_at_once_do_no_harm(photos: Path, kept: Path) -> None:
    code = f"""
import numpy as np
import tinyddpm
from tinyddpm.data import cache, open_dataset
from tinyddpm.data.fingerprint import fingerprint
cache.WORTH = 0.0
for _ in range(5):
    print(fingerprint(open_dataset({str(photos)!r}, image_size=(6, 6), cache=True))["the samples"])
"""
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {line for process in started for line in process.communicate()[0].splitlines()}
    assert [process.returncode for process in started] == [0] * 3
    assert found == {fingerprint(opened(photos, cache=False))["the samples"]}
    assert sorted(path.suffix for path in kept.iterdir()) == [".json", ".npy"]


@pytest.mark.slow
def test_commands_use_the_cache_unless_told_not_to(photos: Path, kept: Path, tmp_path: Path) -> None:
    """A run from the cache is the same run: what it is about is not where its images came from."""
    tiny = [*TWO_STEPS, *ONE_LEVEL, "--preset", "small", "--image-size", "8"]
    told = []
    for name, options in {"a": ["--no-cache"], "b": [], "c": []}.items():
        done = run("train", "--data", photos, "--out", tmp_path / name, *tiny, *options)
        assert done.exit_code == 0, done.output
        told.append(next(line for line in done.stderr.splitlines() if line.startswith("data: ")))
        assert kept.exists() == (name != "a")
    plain, decoded, again = told
    assert decoded == f"{plain}, decoded and kept in {kept}"
    assert again == f"{plain}, decoded before, from {kept}"
    records = [read_record(tmp_path / name / "run.json")[0]["data"] for name in "abc"]
    assert records == [records[0]] * 3
    says("train", "--resume", tmp_path / "a", "--steps", "3")
    says("train", "--resume", tmp_path / "c", "--steps", "3", "--no-cache")
    reports = [json.loads(says("nll", tmp_path / name, "--count", "2", "--json", *options))
               for name, options in (("a", []), ("c", []), ("c", ["--no-cache"]))]  # fmt: skip
    assert len({json.dumps(report | {"checkpoint": ""}) for report in reports}) == 1
    shutil.rmtree(kept)
    judge = ["evaluate", tmp_path / "a", "--split", "train", "--count", "4", "--metrics", "frechet"]
    says(*judge, "--no-cache")
    assert not kept.exists()
    says(*judge)
    assert kept.exists()


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
def test_the_python_face_uses_it_alike(photos: Path, kept: Path, tmp_path: Path, keep: bool) -> None:
    network = {"channels": 8, "multipliers": [1]}
    small = {"image_size": 8, "batch_size": 4, "steps": 1, "timesteps": 4, "sample_count": 2, "network": network}
    made = tinyddpm.train(str(photos), preset="small", out=tmp_path / "r", progress=False, cache=keep, **small)
    assert made.sample_shape == (8, 8, 3)
    assert kept.exists() == keep
    shutil.rmtree(kept, ignore_errors=True)
    tinyddpm.resume(tmp_path / "r", steps=2, progress=False, cache=keep)
    assert kept.exists() == keep
