"""Tables of pixels: what is certain is read, and the rest refused in one line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from tinyddpm.data import open_dataset
from tinyddpm.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 5)).astype(np.uint8)
LABELS = np.asarray([3, 1, 3, 7, 1, 1])
NAMES = [f"pixel{i}" for i in range(25)]


COLOURED = [f"{colour}{i}" for i in range(25) for colour in "rgb"]


def row(cells: Iterable[object]) -> str:
    return ",".join(map(str, cells)) + "\n"


def write(path: Path, names: list[str] | None, columns: list[np.ndarray], end: str = "\n") -> None:
    rows = np.concatenate([column.reshape(6, -1).astype(object) for column in columns], axis=1)
    lines = [names] if names else []
    path.write_text(end.join(",".join(map(str, row)) for row in [*lines, *rows.tolist()]) + end)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["label", *NAMES], [LABELS, IMAGES]),
        ([*NAMES, '"Class"'], [IMAGES, LABELS]),
        (None, [LABELS, IMAGES]),
        ([*map(str, range(26))], [LABELS, IMAGES]),
        (["\ufefflabel", *NAMES], [LABELS, IMAGES.astype(float)]),
    ],
)
def test_labels_and_pixels(tmp_path: Path, names: list[str] | None, columns: list[np.ndarray], end: str) -> None:
    """With names or without, the label first or last, as a spreadsheet saves it, or pandas, which counts columns."""
    write(tmp_path / "x.csv", names, columns, end)
    dataset = open_dataset(str(tmp_path / "x.csv"))
    np.testing.assert_array_equal(dataset.read(np.arange(6))[..., 0], IMAGES)
    assert dataset.labels is not None
    assert [dataset.classes[k] for k in dataset.labels] == [str(label) for label in LABELS]


@pytest.mark.parametrize("first", [IMAGES, IMAGES * (np.arange(25).reshape(5, 5) > 0)])
def test_a_label_that_may_be_the_last_column_is_refused_without_names(tmp_path: Path, first: np.ndarray) -> None:
    """As in tables of a corner that is always black: taken as labels, it would shift all pixels by one."""
    write(tmp_path / "x.csv", None, [first, LABELS])
    with pytest.raises(DataError, match=r"label may be the first column, of \d different values, or the last, of 3: "):
        open_dataset(str(tmp_path / "x.csv"))
    write(tmp_path / "x.csv", [*NAMES, "label"], [first, LABELS])
    assert open_dataset(str(tmp_path / "x.csv")).classes == ("1", "3", "7")


def test_a_corner_that_is_always_black_is_no_label(tmp_path: Path) -> None:
    images = IMAGES.copy()
    images[:, -1, -1] = 0
    write(tmp_path / "x.csv", None, [LABELS, images])
    assert open_dataset(str(tmp_path / "x.csv")).classes == ("1", "3", "7")


def test_levels_hold_for_a_table_of_bytes_too(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", NAMES, [IMAGES // 16])
    found = open_dataset(str(tmp_path / "x.csv"), options={"levels": "0:510"}).read(np.arange(6))[..., 0]
    np.testing.assert_array_equal(found, np.floor(IMAGES // 16 / 2 + 0.5))


@pytest.mark.parametrize("names", [NAMES, None])
def test_pixels_alone(tmp_path: Path, names: list[str] | None) -> None:
    write(tmp_path / "x.csv", names, [IMAGES])
    dataset = open_dataset(str(tmp_path / "x.csv"))
    assert dataset.description == f"{tmp_path / 'x.csv'}: 6 images 5x5x1"
    np.testing.assert_array_equal(dataset.read(np.arange(6))[..., 0], IMAGES)


def test_shares_of_white(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", NAMES, [IMAGES / 255])
    np.testing.assert_array_equal(open_dataset(str(tmp_path / "x.csv")).read(np.arange(6))[..., 0], IMAGES)


@pytest.mark.parametrize(
    ("names", "by_colour"),
    [
        (COLOURED, False),
        ([f"pixel_{y}_{x}_{colour}" for y in range(5) for x in range(5) for colour in ("Red", "Green", "Blue")], False),
        ([f"{colour}{i}" for colour in "RGB" for i in range(25)], True),
        ([f"red.{i}" for i in range(25)] + [f"green.{i}" for i in range(25)] + [f"blue.{i}" for i in range(25)], True),
        ([f"{i}{colour}" for i in range(25) for colour in "bgr"], False),
    ],
)
def test_colours_that_are_named(tmp_path: Path, names: list[str], by_colour: bool) -> None:
    """Pixel by pixel and colour by colour, in any order of colours, beside a label."""
    images = np.random.default_rng(1).integers(0, 256, (6, 5, 5, 3)).astype(np.uint8)
    stored = images[..., ::-1] if names[0].endswith("b") else images
    stored = stored.transpose(0, 3, 1, 2) if by_colour else stored
    write(tmp_path / "x.csv", ["label", *names], [LABELS, stored])
    dataset = open_dataset(str(tmp_path / "x.csv"))
    assert dataset.description == f"{tmp_path / 'x.csv'}: 6 images 5x5x3, 3 classes"
    np.testing.assert_array_equal(dataset.read(np.arange(6)), images)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1,2\n3,4\n", "rows of 2 numbers are no square images"),
        ("id," + ",".join(NAMES) + "\n" + ",".join(["1"] * 26), "rows of 26 numbers are no square images"),
        ("label," + ",".join(NAMES) + "\n" + ",".join(["1"] * 26), "are uint8 from 1 to 1, .*--levels 0:1"),
        (row(range(1, 76)), "may be 5x5 pixels of three colours, .*: name each column by colour and pixel, such as r0"),
        (row(f"p{i}" for i in range(75)) + row(range(75)), "may be 5x5 pixels of three colours"),
        (row(f"{c}{i}" for c in "rgx" for i in range(25)) + row(range(75)), "may be 5x5 pixels of three colours"),
        (row(f"{c}{i}" for c in "rrg" for i in range(25)) + row(range(75)), "may be 5x5 pixels of three colours"),
        (row(["r0", "g1", "b0", *COLOURED[3:]]) + row(range(75)), "may be 5x5 pixels of three colours"),
        (
            row(sorted(NAMES)) + row(range(25)),
            "the column 'pixel10' comes after 'pixel1'|'pixel2' comes after 'pixel19'",
        ),
        (row(sorted(COLOURED)) + row(range(75)), "column '2' comes after '19'"),
        (row([*NAMES, "label"]) + row(range(25)), "26 names in the first line, and 25 numbers in each below"),
        (row(range(-1, 24)), "the images are float32 from -1 to 23, .*--levels -31:31"),
        (row(range(232, 257)), "the images are float32 from 232 to 256, .*--levels 0:511"),
        ("a,b\nc,d\n", "is no table of numbers"),
        ("1,2\n3\n", "is no table of numbers"),
        (",".join(NAMES) + "\n", "is no table of numbers"),
        ("", "is no table of numbers"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=rf"x\.csv.*{line}") as caught:
        open_dataset(str(tmp_path / "x.csv"))
    assert "\n" not in str(caught.value)


def test_numbers_may_be_quoted(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(row(f'"{value}"' for value in IMAGES[0].flat))
    np.testing.assert_array_equal(open_dataset(str(tmp_path / "x.csv")).read(np.arange(1))[0, ..., 0], IMAGES[0])


def test_more_than_fits_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.csv", None, [IMAGES])
    monkeypatch.setattr("tinyddpm.data.base.MEMORY_LIMIT", 2 * (tmp_path / "x.csv").stat().st_size - 1)
    with pytest.raises(DataError, match=r"x\.csv: .* GiB"):
        open_dataset(str(tmp_path / "x.csv"))


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("größe,b\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"x\.csv is no table of numbers"):
        open_dataset(str(tmp_path / "x.csv"))
