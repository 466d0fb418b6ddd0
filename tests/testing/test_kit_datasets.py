"""The kit for data sets passes what keeps the contract, and names what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinyddpm.data.base import ArrayDataset, require_split
from tinyddpm.testing import check_dataset

HostArray = np.ndarray[Any, Any]


@pytest.mark.parametrize("name", ["digits", "fashion-mini", "mixture", "mixture-1d", "moons", "ring", "swiss-roll"])
def test_the_built_in_data_sets_keep_the_contract(name: str) -> None:
    check_dataset(name)


def test_a_split_and_options_are_passed_on() -> None:
    check_dataset("ring", split="test", noise=0.3)


IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1)).astype(np.uint8)


def good(split: str, data_dir: str | None) -> ArrayDataset:
    require_split(split, ("train",), "good")
    return ArrayDataset(IMAGES.copy(), np.arange(5) % 2, ("a", "b"), name="good")


def changed(read: Callable[[ArrayDataset, HostArray], Any] | None = None, **parts: Any) -> Callable[..., Any]:
    """Return the good data set with another way to read, or with other parts."""

    def dataset(split: str, data_dir: str | None) -> ArrayDataset:
        found = good(split, data_dir)
        if read is not None:
            found.read = lambda indices: read(found, indices)  # type: ignore[method-assign]
        vars(found).update(parts)
        return found

    return dataset


def any_split(split: str, data_dir: str | None) -> ArrayDataset:
    return good("train", data_dir)


def shuffled(split: str, data_dir: str | None) -> ArrayDataset:
    require_split(split, ("train",), "shuffled")
    return ArrayDataset(np.random.default_rng().permuted(IMAGES, axis=0), name="shuffled")


def renamed(split: str, data_dir: str | None) -> ArrayDataset:
    require_split(split, ("train",), "renamed")
    captions = np.asarray([f"number {k}" for k in np.random.default_rng().integers(0, 2**62, 5)], object)
    return ArrayDataset(IMAGES.copy(), columns={"text": captions}, name="renamed")


def relabelled(split: str, data_dir: str | None) -> ArrayDataset:
    require_split(split, ("train",), "relabelled")
    labels = np.random.default_rng().integers(0, 2**62, 5) % 2**16
    return ArrayDataset(IMAGES.copy(), labels, tuple(map(str, range(2**16))), name="relabelled")


def one_buffer(dataset: ArrayDataset, indices: HostArray) -> HostArray:
    buffers: dict[int, HostArray] = vars(dataset).setdefault("buffers", {})
    buffer = buffers.setdefault(len(indices), np.empty((len(indices), *IMAGES.shape[1:]), np.uint8))
    buffer[...] = IMAGES[indices]
    return buffer


def no_copy(dataset: ArrayDataset, indices: HostArray) -> HostArray:
    kept: dict[bytes, HostArray] = vars(dataset).setdefault("kept", {})
    return kept.setdefault(indices.tobytes(), IMAGES[indices])


def frozen(dataset: ArrayDataset, indices: HostArray) -> HostArray:
    read = IMAGES[indices]
    read.flags.writeable = False
    return read


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (any_split, "has a split 'no-such-split': refuse what there is not with DataError"),
        (shuffled, "samples differ when it is opened again"),
        (relabelled, "has other classes or labels when it is opened again"),
        (changed(one_buffer), "what is read changes at the next reading"),
        (changed(no_copy), "samples differ after the first reading is written to"),
        (changed(frozen), "what is read cannot be written to"),
        (changed(lambda dataset, indices: IMAGES[np.sort(indices)]), "of the given indices, in their order"),
        (changed(lambda dataset, indices: IMAGES[np.unique(indices)]), "of the given indices, in their order"),
        (changed(lambda dataset, indices: IMAGES[indices] / 255), "gives float64 of shape"),
        (changed(description="two\nlines"), "its description is .*: give one line"),
        (changed(description=None), "its description is None"),
        (changed(classes=("a", "a")), "two classes have the same name"),
        (changed(labels=None), "has 2 classes and no labels"),
        (changed(columns={"age": np.arange(4)}), r"column 'age' is of shape \(4,\): give an array of 5 rows"),
        (changed(columns={"text": np.arange(5)}), r"captions of shape \(5,\) and type int64: give strings"),
        (renamed, "column 'text' differs when it is opened again"),
        (lambda split, data_dir: IMAGES, "is a ndarray without description"),
    ],
)
def test_a_broken_data_set_is_named(broken: Callable[..., Any], line: str) -> None:
    check_dataset(good)
    with pytest.raises(AssertionError, match=line):
        check_dataset(broken)
