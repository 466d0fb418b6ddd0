"""Captions from every kind of file, and what is refused in one line."""

from __future__ import annotations

import json
import runpy
import sys
import unicodedata
import warnings
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinyddpm.data import open_dataset
from tinyddpm.errors import DataError, TinyDDPMWarning

ROOT = Path(__file__).parents[2]
CAPTIONS = ["a red apple", "Äpfel, “grün”\nund rot", "🍏"]
NAMES = ["a.png", "b.png", "c.png"]
IMAGES = 5 * np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
TOKENS = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three grey images whose first pixels are 0, 80 and 160."""
    found = tmp_path / "photos"
    found.mkdir()
    for name, image in zip(NAMES, IMAGES, strict=True):
        Image.fromarray(image).save(found / name)
    return found


def write_lines(folder: Path, rows: list[object]) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")


def named(captions: list[str] = CAPTIONS, **others: list[object]) -> list[dict[str, object]]:
    rows = [{"file_name": name, "text": text} for name, text in zip(NAMES, captions, strict=True)]
    return [{**row, **{key: column[i] for key, column in others.items()}} for i, row in enumerate(rows)]


def refused(path: Path, line: str) -> None:
    with pytest.raises(DataError, match=line) as caught:
        open_dataset(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_lines_of_json(folder: Path) -> None:
    """Their order is free, and what else they say is passed over."""
    write_lines(folder, named(width=[1, 2, 3])[::-1])
    dataset = open_dataset(str(folder))
    assert dataset.description == f"{folder}: 3 images 4x4x1, captions"
    assert dataset.columns["text"].tolist() == CAPTIONS
    assert dataset.read(np.arange(3))[:, 0, 0, 0].tolist() == [0, 80, 160]
    assert dataset.labels is None


def test_a_table(folder: Path) -> None:
    """As a spreadsheet saves it: with a byte order mark, quotes, and a text of two lines."""
    quoted = '"Äpfel, “grün”\nund rot"'
    table = f"file_name,text,label\r\nc.png,🍏,fruit\r\n./a.png,a red apple,fruit\r\nb.png,{quoted},art\r\n"
    (folder / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())
    dataset = open_dataset(str(folder))
    assert dataset.columns["text"].tolist() == CAPTIONS
    assert dataset.classes == ("art", "fruit")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0, 1]


def test_a_text_beside_each_image(folder: Path) -> None:
    for name, caption in zip(NAMES, CAPTIONS, strict=True):
        (folder / name).with_suffix(".txt").write_text(f"  {caption}\n", encoding="utf-8")
    (folder / "notes.txt").write_text("of no image")
    assert open_dataset(str(folder)).columns["text"].tolist() == CAPTIONS


def test_metadata_may_tell_classes_alone(folder: Path) -> None:
    """Then captions are those beside the images. Numbers are names of classes too."""
    write_lines(folder, [{"file_name": name, "label": k} for name, k in zip(NAMES, [7, 0, 7], strict=True)])
    dataset = open_dataset(str(folder))
    assert dataset.columns == {}
    assert dataset.classes == ("0", "7")
    for name in NAMES:
        (folder / name).with_suffix(".txt").write_text(name)
    dataset = open_dataset(str(folder))
    assert dataset.columns["text"].tolist() == NAMES
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0, 1]


def test_metadata_of_other_things_is_passed_over(folder: Path) -> None:
    """It is said, since what is wanted may go by another name there."""
    write_lines(folder, [{"file_name": "a.png", "boxes": [1, 2], "caption": "a dog"}])
    with pytest.warns(
        TinyDDPMWarning, match=r"metadata\.jsonl is not used: it has neither text nor label, but 'boxes', 'cap"
    ):
        assert open_dataset(str(folder)).columns == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "filename;class\na.png;cat\n"),
        ("list_attr.txt", "3\nSmiling  Male\nc.png  1 -1\n"),
        ("notes/captions.json", '{"images": [{"id": 3, "file_name": "b.png"}]}'),
        ("Metadata.jsonl", '{"file_name": "images/a.png", "text": "a dog"}'),
    ],
)
def test_a_table_that_is_not_read_is_named(folder: Path, name: str, text: str) -> None:
    """Else its classes or captions would be lost; tables of other things are passed over, as those that are read."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    with pytest.warns(TinyDDPMWarning, match=rf"{name}: not read, though images are named there: put their label or"):
        assert open_dataset(str(folder)).description == f"{folder}: 3 images 4x4x1"
    (folder / name).write_text("1.png, 2.png")
    with warnings.catch_warnings(action="error"):
        open_dataset(str(folder))
        (folder / name).write_text(text)
        write_lines(folder, named())
        open_dataset(str(folder))


def test_a_table_above_the_splits_may_tell_images_without_suffixes(tmp_path: Path) -> None:
    for name in ("train/000bec.png", "test/001cde.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(IMAGES[1]).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("id,breed\n000bec,collie\n")
    with pytest.warns(TinyDDPMWarning, match=r"labels\.csv: not read, though images are named there"):
        open_dataset(str(tmp_path))


def test_captions_of_files_in_capitals_are_read(folder: Path) -> None:
    for name, caption in zip(NAMES, CAPTIONS, strict=True):
        (folder / name).with_suffix(".TXT").write_text(caption, encoding="utf-8")
    assert open_dataset(str(folder)).columns["text"].tolist() == CAPTIONS


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_images_are_alike_in_either_normal_form(tmp_path: Path, form: Literal["NFC", "NFD"]) -> None:
    """macOS decomposes names of files, and most editors write composed ones."""
    other = "NFD" if form == "NFC" else "NFC"
    Image.fromarray(IMAGES[1]).save(tmp_path / unicodedata.normalize(form, "é.png"))
    write_lines(tmp_path, [{"file_name": unicodedata.normalize(other, "é.png"), "text": "accent"}])
    assert open_dataset(str(tmp_path)).columns["text"].tolist() == ["accent"]


def test_the_refusal_shows_what_metadata_names_instead(folder: Path) -> None:
    write_lines(folder, [{**row, "file_name": f"photos\\{row['file_name']}"} for row in named()])
    refused(folder, r"says nothing of 3 images, such as a\.png; it names 'photos.*a\.png', which is not there$")


def test_classes_of_metadata_have_names_without_space_around_them(folder: Path) -> None:
    table = "file_name,label\na.png,cat\nb.png, cat \nc.png,dog\n"
    (folder / "metadata.csv").write_text(table)
    assert open_dataset(str(folder)).classes == ("cat", "dog")
    (folder / "metadata.csv").write_text(table.replace("dog", " "))
    refused(folder, r"metadata\.csv, line 4: give label as a text; it is ' '")
    (folder / "metadata.csv").write_text(table.replace("dog", ""))
    refused(folder, r"metadata\.csv, line 4: give label as a text; there is none")
    (folder / "metadata.csv").write_text("file_name,label,label\na.png,cat,dog\n")
    refused(folder, r"metadata\.csv has several columns label: keep one")


def test_captions_in_folders_of_classes_and_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat/1.png", "dog/1.png"):
            (tmp_path / split / name).parent.mkdir(parents=True)
            Image.fromarray(IMAGES[0]).save(tmp_path / split / name)
        write_lines(tmp_path / split, [{"file_name": f"{k}/1.png", "text": f"{split} {k}"} for k in ("dog", "cat")])
    for split in ("train", "test"):
        dataset = open_dataset(str(tmp_path), split=split)
        assert dataset.columns["text"].tolist() == [f"{split} cat", f"{split} dog"]
        assert dataset.classes == ("cat", "dog")


def test_metadata_above_the_splits(tmp_path: Path) -> None:
    """It speaks of each split by itself: all of its images, or none, which is said."""
    rows = []
    for split in ("train", "test"):
        for name in ("a.png", "b.png"):
            (tmp_path / split).mkdir(exist_ok=True)
            Image.fromarray(IMAGES[0]).save(tmp_path / split / name)
            rows.append({"file_name": f"{split}/{name}", "text": f"{name} of {split}"})
    write_lines(tmp_path, rows)
    for split in ("train", "test"):
        dataset = open_dataset(str(tmp_path), split=split)
        assert dataset.columns["text"].tolist() == [f"a.png of {split}", f"b.png of {split}"]
    write_lines(tmp_path, rows[:2])
    assert "text" in open_dataset(str(tmp_path)).columns
    with pytest.warns(TinyDDPMWarning, match=r"metadata\.jsonl is not used: it names no image as test/a\.png$"):
        assert not open_dataset(str(tmp_path), split="test").columns
    write_lines(tmp_path, rows[:1])
    refused(tmp_path, r"metadata\.jsonl says nothing of 1 images, such as train/b\.png")
    write_lines(tmp_path, [*rows, {"file_name": "train/c.png", "text": ""}])
    refused(tmp_path, r"names 1 images that are not there, such as 'train/c\.png'")
    write_lines(tmp_path, rows)
    write_lines(tmp_path / "train", [{"file_name": name, "text": ""} for name in ("a.png", "b.png")])
    refused(tmp_path, "train holds metadata of the same images as .* does: keep one of them")


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (named()[:2], r"metadata\.jsonl says nothing of 1 images, such as c\.png: add a line for each"),
        (
            [*named(), {"file_name": "d.png", "text": ""}],
            r"names 1 images that are not there, such as 'd\.png': remove",
        ),
        ([*named(), named()[0]], r"metadata\.jsonl, line 4 names 'a\.png' a second time: keep one line"),
        ([*named(), {**named()[0], "file_name": "./a.png"}], r"line 4 names 'a\.png' a second time"),
        ([*named(), {"file_name": "d\ne.png", "text": ""}], r"such as 'd\\ne\.png': remove"),
        ([*named(), {"file_name": "../a.png", "text": ""}], r"line 4: '\.\./a\.png' leads out of the folder"),
        ([*named(), {"file_name": "/etc/a.png", "text": ""}], r"line 4: '/etc/a\.png' leads out of the folder"),
        ([*named()[:2], {"file_name": "c.png"}], "line 3: give text as a text; there is none"),
        (
            [*named()[:2], {"file_name": "c.png", "text": ["a", "b"]}],
            r"line 3: give text as a text; it is \['a', 'b'\]",
        ),
        ([*named()[:2], {"text": "c"}], "line 3: give file_name as a text; there is none"),
        (named(label=[True, False, True]), "line 1: give label as a text; it is True"),
        ([*named(), [1, 2]], "line 4 is no object: write"),
        (named(["a", "b", "\ud83d"]), "caption 2 holds half a character"),
    ],
)
def test_wrong_metadata_is_refused(folder: Path, rows: list[object], line: str) -> None:
    write_lines(folder, rows)
    refused(folder, line)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "a.txt"])
def test_what_is_no_utf8_is_refused(folder: Path, name: str) -> None:
    for image in NAMES:
        (folder / image).with_suffix(".txt").write_text("x")
    (folder / name).write_bytes(b"file_name,text\na.png,\xe4pfel\n")
    refused(folder, rf"{name} is no UTF-8 \(.* at byte 21\): save it as UTF-8")


def test_broken_metadata_is_refused(folder: Path) -> None:
    for text in ('{"file_name": "a.png", "text": "x"}\n{', "{}\n" + "[" * 100_000):
        (folder / "metadata.jsonl").write_text(text)
        refused(folder, r"metadata\.jsonl, line 2 is no JSON \(.*\): write an object a line")
    (folder / "metadata.csv").write_text("file_name,text\na.png,x\n")
    refused(folder, r"photos holds metadata\.jsonl and metadata\.csv: keep one of them")
    (folder / "metadata.jsonl").unlink()
    for text, line in {
        "file_name,text\na.png,red, and green\n": "line 2 has more fields than the first: quote commas",
        'file_name,text\na.png,"never closed\n': "line 1 is no CSV",
        "file_name,text\na.png\n": "line 2: give text as a text; there is none",
        "name,text\na.png,x\n": "line 2: give file_name as a text; there is none",
    }.items():
        (folder / "metadata.csv").write_text(text)
        refused(folder, rf"metadata\.csv, {line}")


def test_an_image_without_its_text_is_refused(folder: Path) -> None:
    (folder / "a.txt").write_text("a")
    refused(folder, r"photos: 2 of 3 images lack a caption: .*b\.txt is not there")


@pytest.mark.slow
@given(st.binary(max_size=60) | st.text('{}[]",:\\ \nabc0').map(str.encode))
def test_any_metadata_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    Image.fromarray(IMAGES[0]).save(folder / "a.png")
    for name in ("metadata.jsonl", "metadata.csv"):
        (folder / name).write_bytes(b"" if name.endswith("csv") else content)
        if name.endswith("csv"):
            (folder / "metadata.jsonl").unlink()
            (folder / name).write_bytes(b"file_name,text\n" + content)
        try:
            found, complaint = len(open_dataset(str(folder))), ""
        except DataError as error:
            found, complaint = 1, str(error)
        assert found == 1
        assert len(complaint.splitlines()) < 2


def test_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=IMAGES, captions=CAPTIONS, tokens=TOKENS, length=[5, 0, 2])
    dataset = open_dataset(str(path))
    assert dataset.description == f"{path}: 3 images 4x4x1, captions, tokens 5x2"
    assert dataset.columns["text"].tolist() == CAPTIONS
    assert dataset.columns["text"].dtype == object
    np.testing.assert_array_equal(dataset.columns["tokens"], TOKENS)
    assert dataset.columns["length"].tolist() == [5, 0, 2]


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"captions": CAPTIONS[:2]}, r"column 'text' is of shape \(2,\): give an array of 3 rows"),
        ({"captions": [b"a", b"b", b"c"]}, r"captions are \|S1: store strings"),
        ({"captions": np.full(3, 0xD83D, "<u4").view("<U1")}, "caption 0 holds half a character"),
        ({"captions": np.full(3, 2**31, "<u4").view("<U1")}, "captions hold 2147483648, the number of no character"),
        ({"captions": np.full(3, 0x110000, ">u4").view(">U1")}, "captions hold 1114112, the number of no character"),
        ({"captions": np.asarray(CAPTIONS, object)}, r"cannot be read \(it holds Python objects\)"),
        ({"tokens": TOKENS[0]}, r"column 'tokens' is of shape \(5, 2\): give an array of 3 rows"),
        ({"tokens": TOKENS.astype(float)}, "type float64: give float16 or float32"),
        ({"tokens": TOKENS, "length": [1, 2, 6]}, "no integer from 0 to 5"),
    ],
)
def test_wrong_columns_of_an_npz_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], line: str) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, **arrays)
    refused(tmp_path / "x.npz", line)


def as_json(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode(), np.uint8)


@pytest.mark.parametrize("samples", ["images", "points"])
def test_hdf5(tmp_path: Path, samples: str) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file[samples] = IMAGES if samples == "images" else np.zeros((3, 2), np.float32)
        file["captions"], file["tokens"], file["length"] = as_json(CAPTIONS), TOKENS, np.asarray([5, 0, 2])
    dataset = open_dataset(str(path))
    assert dataset.description.endswith(", captions, tokens 5x2")
    assert dataset.columns["text"].tolist() == CAPTIONS
    np.testing.assert_array_equal(dataset.columns["tokens"], TOKENS)
    assert dataset.columns["length"].tolist() == [5, 0, 2]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("captions", CAPTIONS, "'captions' holds object and not numbers"),
        ("captions", as_json(CAPTIONS[:2]), r"column 'text' is of shape \(2,\): give an array of 3 rows"),
        ("captions", as_json([1, 2, 3]), "`captions` is no JSON list of strings in UTF-8, as uint8"),
        ("captions", np.frombuffer(b'["\xe4", "b", "c"]', np.uint8), "`captions` is no JSON list of strings in UTF-8"),
        ("captions", np.full(100_000, ord("["), np.uint8), "`captions` is no JSON list"),
        ("captions", np.frombuffer(rb'["\ud83d", "b", "c"]', np.uint8), "caption 0 holds half a character"),
        ("tokens", TOKENS[:2], r"`tokens` has the shape \(2, 5, 2\): store a row for each of 3 samples"),
        ("tokens", np.full((3, 5, 2), np.nan, np.float32), "the tokens of sample 0 are not finite"),
    ],
)
def test_wrong_columns_of_hdf5_are_refused(tmp_path: Path, key: str, value: object, line: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"], file[key] = IMAGES, value
    refused(tmp_path / "x.h5", line)


def test_a_packed_folder_keeps_its_captions(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(folder, named(label=["x", "y", "x"]))
    monkeypatch.setattr(sys, "argv", ["pack", str(folder), str(tmp_path / "packed.h5")])
    runpy.run_path(str(ROOT / "examples" / "pack_folder.py"), run_name="__main__")
    packed = open_dataset(str(tmp_path / "packed.h5"))
    assert packed.columns["text"].tolist() == CAPTIONS
    assert packed.classes == ("x", "y")
