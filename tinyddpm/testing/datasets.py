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

    Its parts are of the right types, see `tinyddpm.data.base.Dataset`; its description is one line, its classes have
    different names, its labels are among them, its columns have a row for each sample. Samples come in the order asked
    for, the same at every reading and opening, and what is read may be written to. A split that it has not is refused
    with DataError.

    Args:
        dataset: its registered name, or the function `split, data_dir, **options -> Dataset`.
        split: the split to look at.
        data_dir: where its files lie, if that has to be said.
        options: its options.

    Raises:
        DataError: it cannot be opened.
        AssertionError: it does not; the line names the property.
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
    """Check order, repeatability and that what is read is the caller's own."""
    last = len(found) - 1
    assert len(again) == len(found), f"{what} has {len(found)} samples, and {len(again)} when it is opened again"
    read = found.read(np.asarray([last, 0, last]))
    first = found.read(np.asarray([0]))
    assert np.all(np.isfinite(read)), f"{what}: a sample is not finite"
    same = len(read) == 3 and np.array_equal(read[1:2], first) and np.array_equal(read[0], read[2])
    assert same, f"{what}: samples do not come as they are asked for, by index, in order and as often"
    kept = read.copy()
    try:
        read[...] = 0
    except ValueError as cause:
        raise AssertionError(f"{what}: what is read cannot be written to: return a copy") from cause
    for other, when in ((found, "after the first reading is written to"), (again, "when it is opened again")):
        assert np.array_equal(other.read(np.asarray([last, 0, last])), kept), f"{what}: samples differ {when}"


def _check_columns(found: Dataset, again: Dataset, what: str) -> None:
    """Check that the columns are the same when the data set is opened again."""
    assert found.columns.keys() == again.columns.keys(), f"{what} has other columns when it is opened again"
    for key, column in found.columns.items():
        assert np.array_equal(column, again.columns[key]), f"{what}: column {key!r} differs when it is opened again"
