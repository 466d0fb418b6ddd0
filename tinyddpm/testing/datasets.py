"""The conformance kit for data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm.data.base import Dataset, checked_dataset
from tinyddpm.errors import DataError
from tinyddpm.testing.plugin import resolve


def check_dataset(
    dataset: str | Callable[..., Dataset], split: str = "train", data_dir: str | None = None, **options: Any
) -> None:
    """Check that a data set keeps its contract, with these options.

    - Its attributes have the types of `tinyddpm.data.base.Dataset`; the description is one line; names of classes
      differ, labels number them, and columns have a row for each sample.
    - `read` returns the samples in the order of the indices, the same ones at every call and every opening, in an array
      that may be written to, and that no later call writes to.
    - Classes, labels and columns are the same at every opening.
    - An unknown split is refused with DataError.

    Args:
        dataset: its registered name, or the function `split, data_dir, **options -> Dataset`.
        split: the split to check.
        data_dir: folder of its files, if it needs one.
        options: its options.

    Raises:
        AssertionError: it cannot be opened, or breaks its contract; the line names the property.
    """
    function, what = resolve("datasets", dataset, arguments=2)
    name = dataset if isinstance(dataset, str) else getattr(dataset, "__name__", repr(dataset))
    try:
        found, again = (checked_dataset(function(split, data_dir, **options), name) for _ in range(2))
    except DataError as error:
        raise AssertionError(str(error)) from error
    lines = found.description.splitlines() if isinstance(found.description, str) else []
    assert len(lines) == 1, f"{what}: its description is {found.description!r}: give one line"
    assert len(set(found.classes)) == len(found.classes), f"{what}: two classes have the same name"
    _check_reading(found, again, what)
    _check_columns(found, again, what)
    try:
        function("no-such-split", data_dir, **options)
    except DataError:
        return
    raise AssertionError(f"{what} has a split 'no-such-split': refuse what there is not with DataError")


def _check_reading(found: Dataset, again: Dataset, what: str) -> None:
    """Check order and repeatability of the samples, and that writing to them does not change the data set."""
    last = len(found) - 1
    assert len(again) == len(found), f"{what} has {len(found)} samples, and {len(again)} when it is opened again"
    read = found.read(np.asarray([last, 0, last]))
    first = found.read(np.asarray([0]))
    assert np.all(np.isfinite(read)), f"{what}: a sample is not finite"
    same = len(read) == 3 and np.array_equal(read[1:2], first) and np.array_equal(read[0], read[2])
    assert same, f"{what}: read does not return the samples of the given indices, in their order"
    kept = read.copy()
    found.read(np.asarray([0, last, 0]))
    assert np.array_equal(read, kept), f"{what}: what is read changes at the next reading: return a new array"
    try:
        read[...] = 0
    except ValueError as cause:
        raise AssertionError(f"{what}: what is read cannot be written to: return a copy") from cause
    for other, when in ((found, "after the first reading is written to"), (again, "when it is opened again")):
        assert np.array_equal(other.read(np.asarray([last, 0, last])), kept), f"{what}: samples differ {when}"


def _check_columns(found: Dataset, again: Dataset, what: str) -> None:
    """Check that classes, labels and columns are the same when the data set is opened again."""
    labels = [np.asarray(dataset.labels) for dataset in (found, again)]
    same = tuple(found.classes) == tuple(again.classes) and np.array_equal(labels[0], labels[1])
    assert same, f"{what} has other classes or labels when it is opened again"
    assert found.columns.keys() == again.columns.keys(), f"{what} has other columns when it is opened again"
    for key, column in found.columns.items():
        assert np.array_equal(column, again.columns[key]), f"{what}: column {key!r} differs when it is opened again"
