"""Parquet files of images, written by pyarrow as Hugging Face's data sets have them, and damaged ones."""

from __future__ import annotations

import io
import json
import os
import sys
import tracemalloc
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinyddpm.data import open_dataset
from tinyddpm.data import parquet as reader
from tinyddpm.errors import DataError, TinyDDPMWarning

pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")

PICTURES = np.random.default_rng(0).integers(0, 256, (9, 5, 4, 3)).astype(np.uint8)
NAMES = ["zebra", "apple", "never seen", "mouse"]
STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def encoded(image: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **options)
    return file.getvalue()


def write(
    path: Path,
    images: Sequence[np.ndarray | bytes | None] = PICTURES,
    name: str = "image",
    names: Any = None,
    rows: int = 2,
    **columns: Any,
) -> None:
    """As `datasets` writes it: images as {bytes, path} in small groups, classes as numbers, their names beside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [encoded(image) if isinstance(image, np.ndarray) else image for image in images]
    values = {name: pyarrow.array([{"bytes": file, "path": "x.png"} for file in files], STRUCT)}
    table = pyarrow.table({**values, **columns})
    if names is not None:
        description = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(description)})
    parquet.write_table(table, path, row_group_size=rows)


def read(path: Path, **options: Any) -> np.ndarray:
    dataset = open_dataset(str(path), **options)
    return dataset.read(np.arange(len(dataset)))


def refused(path: Path, complaint: str, **options: Any) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        open_dataset(str(path), **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_images_labels_and_captions(tmp_path: Path) -> None:
    """Over several files and groups of rows; a class that no sample has is none, the others keep their order."""
    labels, texts = [1, 0, 3, 3, 0, 1, 1, 0, 3], [f"picture {i}, ä" for i in range(9)]
    for k, part in enumerate((slice(0, 5), slice(5, 9))):
        path = tmp_path / "data" / f"train-0000{k}-of-00002.parquet"
        write(path, PICTURES[part], names=NAMES, label=labels[part], text=texts[part])
    for hidden in ("data/._train-00000-of-00002.parquet", "__MACOSX/train.parquet", ".cache/train.parquet"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"none")
    dataset = open_dataset(str(tmp_path))
    assert dataset.description == f"{tmp_path}: 9 images 5x4x3, 3 classes, captions"
    np.testing.assert_array_equal(dataset.read(np.arange(9)), PICTURES)
    assert dataset.classes == ("zebra", "apple", "mouse")
    assert dataset.labels is not None
    assert [NAMES.index(dataset.classes[k]) for k in dataset.labels] == labels
    assert dataset.columns["text"].tolist() == texts


@pytest.mark.parametrize(
    "files",
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-9564e8b05b4757ab.parquet", "data/test-00000-of-00001-1234e8b05b4757ab.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("mnist_Training.parquet", "mnist_Testing.PARQUET"),
    ],
)
def test_splits_by_their_usual_names(tmp_path: Path, files: tuple[str, str]) -> None:
    """A class has the same number in each, and one that is hidden, as -1, is none."""
    write(tmp_path / files[0], PICTURES[:6], label=[7, 2, 9, 2, 7, 9])
    write(tmp_path / files[1], PICTURES[6:], label=[9, 4, 4])
    for split, part, numbers in (("train", PICTURES[:6], [2, 0, 3, 0, 2, 3]), ("test", PICTURES[6:], [3, 1, 1])):
        dataset = open_dataset(str(tmp_path), split=split)
        np.testing.assert_array_equal(dataset.read(np.arange(len(part))), part)
        assert dataset.labels is not None
        assert (dataset.labels.tolist(), dataset.classes) == (numbers, ("2", "4", "7", "9"))
    refused(tmp_path, "has no split 'validation', only ", split="validation")
    write(tmp_path / files[1], PICTURES[6:], label=[-1, -1, -1])
    assert open_dataset(str(tmp_path)).classes == ("2", "7", "9")


def test_one_file_whatever_its_folder_is_called(tmp_path: Path) -> None:
    write(tmp_path / "test" / "photos.parquet", name="img", fine_label=np.arange(9) % 2 == 0)
    dataset = open_dataset(str(tmp_path / "test" / "photos.parquet"))
    np.testing.assert_array_equal(dataset.read(np.arange(9)), PICTURES)
    assert dataset.classes == ("False", "True")


def test_bytes_alone_and_labels_as_texts(tmp_path: Path) -> None:
    columns = {"image": [encoded(image) for image in PICTURES], "label": [f"c{i % 3}" for i in range(9)]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    dataset = open_dataset(str(tmp_path / "x.parquet"))
    np.testing.assert_array_equal(dataset.read(np.arange(9)), PICTURES)
    assert dataset.classes == ("c0", "c1", "c2")


def test_images_are_read_as_those_of_a_folder(tmp_path: Path) -> None:
    """Grey and colour, transparency, deep grey, frames and sizes: the same pictures and the same refusals."""
    odd = {
        "grey": encoded(PICTURES[0, :, :, 0]),
        "clear": encoded(np.dstack([PICTURES[1], np.arange(20, dtype=np.uint8).reshape(5, 4) * 12])),
        "deep": encoded(PICTURES[2, :, :, 0].astype(np.uint16) * 257),
    }
    gif = io.BytesIO()
    frames = [Image.fromarray(image) for image in PICTURES[:3]]
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    for name, content in {**odd, "moving": gif.getvalue()}.items():
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / f"{name}.png").write_bytes(content)
    write(tmp_path / "x.parquet", [path.read_bytes() for path in sorted((tmp_path / "folder").iterdir())])
    for options in ({"background": "#102030", "frames": "all"}, {"background": "red", "frames": "all"}):
        found = read(tmp_path / "x.parquet", options=options)
        assert found.shape == (6, 5, 4, 3)
        np.testing.assert_array_equal(found, read(tmp_path / "folder", options=options))
    with pytest.warns(TinyDDPMWarning, match=r"x\.parquet: 4 of 6 images are used; 2 are further frames"):
        open_dataset(str(tmp_path / "x.parquet"), image_size=(3, 3))
    write(tmp_path / "dark.parquet", [PICTURES[0] % 2])
    refused(tmp_path / "dark.parquet", "row 0: the images are uint8 from 0 to 1, .*--levels 0:1")
    assert read(tmp_path / "dark.parquet", options={"levels": "0:1"}).max() == 255
    write(tmp_path / "sizes.parquet", [PICTURES[0], PICTURES[1, :3]])
    refused(tmp_path / "sizes.parquet", "row 0 is 5x4 and .*row 1 is 3x4: bring all images to one size")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    """Files that are missing, by the names of the others, and columns that might have been meant."""
    columns = {"label": [[1, 2]] * 9, "text": [f"{i}" for i in range(9)], "caption": [["a", "b"]] * 9}
    write(tmp_path / "train-00001-of-00003.parquet", **columns)
    with pytest.warns(TinyDDPMWarning) as caught:
        dataset = open_dataset(str(tmp_path))
    assert str(caught[0].message) == (
        f"{tmp_path}: 1 of 3 files of the split 'train' are there;"
        " not used: label (list<element: int64>), caption (list<element: string>);"
        " classes are read from `label`, captions from `text`"
    )
    assert dataset.labels is None
    assert dataset.columns["text"][3] == "3"


def test_columns_by_other_names_are_said_where_there_is_neither_label_nor_caption(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", target=[0, 1, 2] * 3, prompt=["a"] * 9)
    with pytest.warns(TinyDDPMWarning, match=r"not used: target \(int64\), prompt \(string\); classes are read"):
        open_dataset(str(tmp_path / "x.parquet"))
    write(tmp_path / "x.parquet", target=[0, 1, 2] * 3, text=["a"] * 9)
    with warnings.catch_warnings(action="error"):
        open_dataset(str(tmp_path / "x.parquet"))


def test_folders_of_several_things_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "train-0.parquet")
    write(tmp_path / "b" / "train-0.parquet")
    refused(tmp_path, "holds several data sets (a, b): give the folder of one".replace("(", r"\(").replace(")", r"\)"))
    (tmp_path / "b" / "train-0.parquet").rename(tmp_path / "a" / "masks.parquet")
    refused(tmp_path / "a", r"holds splits \(train\) beside other files \(masks\.parquet\): move the others out of it")
    (tmp_path / "a" / "masks.parquet").rename(tmp_path / "a" / "train_test.parquet")
    refused(tmp_path / "a", "is named after the splits test and train: name it after one")
    (tmp_path / "a" / "train_test.parquet").unlink()
    write(tmp_path / "a" / "train-1.parquet", name="img")
    refused(tmp_path / "a", "its files have other columns or classes each: give the folder of those")
    write(tmp_path / "a" / "train-0.parquet", names=NAMES, label=[0] * 9)
    for name in ("train-1", "test"):  # the number of a class is another's name there
        write(tmp_path / "a" / f"{name}.parquet", names=NAMES[::-1], label=[0] * 9)
        refused(tmp_path / "a", "its files have other columns or classes each")
        (tmp_path / "a" / f"{name}.parquet").unlink()
    os.mkfifo(tmp_path / "a" / "train-1.parquet")
    refused(tmp_path / "a", r"train-1\.parquet is no Parquet file, or damaged \(.*it is a pipe and no file")


def test_images_in_files_of_their_own_come_first(tmp_path: Path) -> None:
    """What is beside them is left out, and that is said."""
    (tmp_path / "1.png").write_bytes(encoded(PICTURES[0]))
    write(tmp_path / "x.parquet")
    with pytest.warns(
        TinyDDPMWarning, match=r"1 of 2 images are used; 1 are of kinds that are not read \(x\.parquet\)"
    ):
        assert len(open_dataset(str(tmp_path))) == 1


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"text": ["a"]}, r"has no column `image` of bytes, or of \{bytes, path\}, but text \(string\)"),
        ({"image": [[[b"a"]]]}, r"but image \(list<element: list<element: binary>>\)"),
        ({"image": ["a"]}, r"but image \(string\)"),
        ({"image": [{"bytes": None, "path": "a"}]}, r"but image \(struct<bytes: null, path: string>\)"),
        ({"left": [{"bytes": b"a"}], "right": [{"bytes": b"a"}]}, r"but left \(struct<bytes: binary>\), right"),
        ({"image": [b"GIF89a"]}, "row 0 is no image"),
        ({"image": [encoded(PICTURES[0])[:60]]}, "row 0 is a broken image"),
        ({"image": [None, encoded(PICTURES[0])]}, "row 0 has no bytes of an image"),
        ({"image": [encoded(PICTURES[0])], "label": pyarrow.array([None], "int64")}, "`label` of row 0 is missing"),
        ({"image": [encoded(PICTURES[0])], "label": [-1]}, "label -1 is below 0"),
        ({"image": [encoded(PICTURES[0])], "text": pyarrow.array([None], "string")}, "`text` of row 0 is missing"),
        ({"image": pyarrow.array([], "binary")}, "says that it holds 0 rows"),
    ],
)
def test_tables_of_other_things_are_refused(tmp_path: Path, columns: dict[str, Any], complaint: str) -> None:
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    refused(tmp_path / "x.parquet", complaint)


def test_a_label_without_a_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", PICTURES[:2], names=["a", "b"], label=[0, 2])
    refused(tmp_path / "x.parquet", "label 2 is not in 0 to 1, the classes that have names")
    for names in ("ab", [1, 2], {"a": 1}, [[["a"]]]):  # no names
        write(tmp_path / "x.parquet", PICTURES[:2], names=names, label=[0, 2])
        assert open_dataset(str(tmp_path / "x.parquet")).classes == ("0", "2")


def test_all_broken_images_are_named(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", [PICTURES[0], b"", PICTURES[1], b"GIF", encoded(PICTURES[0])[:60]])
    refused(
        tmp_path / "x.parquet",
        "3 of 5 images are none or broken: .*x.parquet, row 1; .*x.parquet, row 3; .*x.parquet, row 4: remove them",
    )


@pytest.mark.slow
def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """Cut anywhere, or with bytes changed: one line, or the same pictures; never others."""
    write(tmp_path / "x.parquet", label=np.arange(9))
    whole = (tmp_path / "x.parquet").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:k] for k in rng.integers(0, len(whole), 20)] + [b"", b"PAR1" + bytes(40) + b"PAR1"]
    for _ in range(150):
        content = bytearray(whole)
        for k in rng.integers(0, len(whole), 3):
            content[k] ^= int(rng.integers(1, 256))
        damaged.append(bytes(content))
    told, others = 0, 0
    for content in damaged:
        (tmp_path / "x.parquet").write_bytes(content)
        try:
            found = read(tmp_path / "x.parquet")
        except DataError as error:
            lines = str(error).splitlines()
            told += len(lines) == 1 and "x.parquet" in lines[0]
        else:
            others += not all((picture == PICTURES).all(axis=(1, 2, 3)).any() for picture in found)
            told += 1
    assert (told, others) == (len(damaged), 0)


def test_labels_that_were_changed_are_seen_where_there_are_checksums(tmp_path: Path) -> None:
    columns = {"image": [encoded(image) for image in PICTURES], "label": np.full(9, 0x123456789ABCDEF)}
    options: Any = {"use_dictionary": False, "compression": "NONE", "write_page_checksum": True}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet", **options)
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[content.index(columns["label"].tobytes()) + 17] ^= 1
    (tmp_path / "x.parquet").write_bytes(content)
    refused(tmp_path / "x.parquet", "is no Parquet file, or damaged .*(crc|checksum|corrupt)")


def test_more_rows_than_bytes_are_refused(tmp_path: Path) -> None:
    """A few bytes may stand for millions of equal rows; no image is that small."""
    columns = {"image": pyarrow.nulls(10**7, STRUCT)}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 10**6
    refused(tmp_path / "x.parquet", "says that it holds 10000000 rows, in [0-9]+ bytes")


@pytest.mark.slow
def test_what_a_few_bytes_stand_for_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image, named a thousand times in a group of rows."""
    table = pyarrow.table({"image": [encoded(PICTURES[0]) + bytes(2**16)] * 1000})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 2**18
    monkeypatch.setattr("tinyddpm.data.base.MEMORY_LIMIT", 2**25)
    refused(tmp_path / "x.parquet", r"`image`: 0\.0 GiB .*write smaller groups of rows")


@pytest.mark.slow
def test_a_group_of_rows_is_held_and_no_more(tmp_path: Path) -> None:
    """Pictures that take 20 MB encoded, in twenty groups: with what they are decoded to, less than half of it."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (410, 410, 3)).astype(np.uint8) for _ in range(40)]
    write(tmp_path / "x.parquet", pictures, rows=2)
    size = (tmp_path / "x.parquet").stat().st_size
    before = pyarrow.total_allocated_bytes()
    peak = []
    rows = reader._Table.rows

    def counted(self: Any, *arguments: Any) -> Any:
        found = rows(self, *arguments)
        peak.append(pyarrow.total_allocated_bytes() - before)
        return found

    tracemalloc.start()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reader._Table, "rows", counted)
        open_dataset(str(tmp_path / "x.parquet"), image_size=(8, 8))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(peak) == 40, "each group is read for the headers, and again to be decoded"
    assert max(peak) < 0.4 * size
    assert most < 0.4 * size


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for path in (tmp_path, tmp_path / "x.parquet"):
        refused(path, r"x\.parquet is read by pyarrow, .*: run pip install 'tinyddpm\[parquet\]', or give the images")
