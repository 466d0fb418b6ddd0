"""Tables of pixels: what is certain is read, and the rest refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tinyddpm.data import open_dataset
from tinyddpm.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 5)).astype(np.uint8)
LABELS = np.asarray([3, 1, 3, 7, 1, 1])
NAMES = [f"pixel{i}" for i in range(25)]


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
        (["\ufefflabel", *NAMES], [LABELS, IMAGES.astype(float)]),
    ],
)
def test_labels_and_pixels(tmp_path: Path, names: list[str] | None, columns: list[np.ndarray], end: str) -> None:
    """With names or without, the label first or last, as a spreadsheet saves it."""
    write(tmp_path / "x.csv", names, columns, end)
    dataset = open_dataset(str(tmp_path / "x.csv"))
    np.testing.assert_array_equal(dataset.read(np.arange(6))[..., 0], IMAGES)
    assert dataset.labels is not None
    assert [dataset.classes[k] for k in dataset.labels] == [str(label) for label in LABELS]


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
    ("text", "line"),
    [
        ("1,2\n3,4\n", "rows of 2 numbers are no square grey images"),
        ("id," + ",".join(NAMES) + "\n" + ",".join(["1"] * 26), "rows of 26 numbers are no square grey images"),
        ("label," + ",".join(NAMES) + "\n" + ",".join(["1"] * 26), "are uint8 from 1 to 1, .*--levels 0:1"),
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


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("größe,b\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"x\.csv is no table of numbers"):
        open_dataset(str(tmp_path / "x.csv"))
