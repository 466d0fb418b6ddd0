"""Data sets over arrays: labels, columns, subsets and splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.data.base import ArrayDataset, Subset, split_dataset
from tinyddpm.data.resize import resized
from tinyddpm.errors import DataError

IMAGES = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)


def test_labels_beyond_the_named_classes_are_refused() -> None:
    with pytest.raises(DataError, match="label 2 is not in 0 to 1"):
        ArrayDataset(IMAGES, np.array([0, 1, 2, 0]), ("a", "b"), name="x")


def test_more_labels_than_there_may_be_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyddpm.data.base.MOST_CLASSES", 3)
    assert len(ArrayDataset(IMAGES, np.array([0, 1, 2, 2]), name="x").classes) == 3
    with pytest.raises(DataError, match="x: 4 different labels, and there may be 3 classes: leave them out"):
        ArrayDataset(IMAGES, np.arange(4), name="x")


@given(data=st.data(), n=st.integers(2, 30), seed=st.integers(0, 2**64 - 1))
def test_a_split_shares_out_all_samples(data: st.DataObject, n: int, seed: int) -> None:
    """Over sizes, numbers held out, and seeds: nothing twice, nothing lost, labels go along, and it can be repeated."""
    held_out = data.draw(st.integers(1, n - 1))
    dataset = ArrayDataset(np.arange(n, dtype=np.uint8).reshape(n, 1, 1), np.arange(n), name="x")
    train, validation = split_dataset(dataset, held_out, seed)
    assert (len(train), len(validation)) == (n - held_out, held_out)
    assert validation.description == f"{held_out} of {dataset.description}"
    values = [part.read(np.arange(len(part))).ravel().tolist() for part in (train, validation)]
    assert sorted(values[0] + values[1]) == list(range(n))
    for part, expected in zip((train, validation), values, strict=True):
        assert part.labels is not None
        assert part.labels.tolist() == expected
    again = split_dataset(dataset, held_out, seed)[1]
    assert again.read(np.arange(held_out)).ravel().tolist() == values[1]


def test_a_split_must_leave_something() -> None:
    dataset = ArrayDataset(IMAGES, name="x")
    for held_out in (0, 4):
        with pytest.raises(DataError, match=f"cannot hold out {held_out} of 4 samples: choose a number from 1 to 3"):
            split_dataset(dataset, held_out, 0)


def test_a_subset_of_points_without_labels() -> None:
    points = np.arange(8.0).reshape(4, 2)
    part = Subset(ArrayDataset(points, name="x"), np.array([3, 1]))
    assert part.labels is None
    np.testing.assert_array_equal(part.read(np.array([1, 0, 1])), points[[1, 3, 1]])


WORDS = np.asarray(["red", "green", "blue", "black"], object)


def test_columns_are_kept_and_cut_as_the_samples_are() -> None:
    tokens = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(np.float16)
    columns = {"text": WORDS, "tokens": tokens, "length": np.arange(4), "age": np.arange(8).reshape(4, 2)}
    dataset = ArrayDataset(IMAGES, columns=columns, name="x")
    assert dataset.description.endswith(", captions, tokens 3x2")
    order = np.array([2, 0])
    part = resized(Subset(dataset, order), (8, 8))
    assert part.columns["text"].tolist() == ["blue", "red"]
    for key, column in columns.items():
        np.testing.assert_array_equal(part.columns[key], column[order])
    assert ArrayDataset(IMAGES, name="x").columns == {}


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"age": np.arange(3)}, r"column 'age' is of shape \(3,\): give an array of 4 rows"),
        ({"age": np.asarray(4)}, r"column 'age' is of shape \(\): give an array of 4 rows"),
        ({"text": WORDS.astype(str)}, r"captions of shape \(4,\) and type <U5: give strings"),
        ({"text": WORDS[:, None]}, r"captions of shape \(4, 1\)"),
        ({"text": np.asarray(["a", b"b", "c", "d"], object)}, "caption 1 is a bytes: give a str"),
        ({"text": np.asarray(["a", "b", "c", "\ud83d"], object)}, "caption 3 holds half a character"),
        ({"tokens": np.zeros((4, 2))}, r"tokens of shape \(4, 2\) and type float64: give float16 or float32"),
        ({"tokens": np.zeros((4, 2, 3))}, "type float64: give float16 or float32"),
        ({"tokens": np.zeros((4, 0, 3), np.float32)}, r"tokens of shape \(4, 0, 3\)"),
        ({"tokens": np.full((4, 2, 3), np.inf, np.float32)}, "the tokens of sample 0 are not finite"),
        ({"tokens": np.zeros((4, 2, 3), np.float32), "length": np.asarray([0, 1, 2, 3])}, "no integer from 0 to 2"),
        ({"tokens": np.zeros((4, 2, 3), np.float32), "length": np.ones(4)}, "no integer from 0 to 2"),
    ],
)
def test_columns_of_another_kind_are_refused(columns: dict[str, np.ndarray], line: str) -> None:
    with pytest.raises(DataError, match=rf"^x: .*{line}"):
        ArrayDataset(IMAGES, columns=columns, name="x")
