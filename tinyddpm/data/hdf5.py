"""Data sets in HDF5 files, whose images are read as they are asked for.

A file holds `images`, uint8 (n, H, W) or (n, H, W, C), or `points`, floating (n, D); and it may hold `labels`, integers
(n,), and `classes`, the names of the classes as a JSON list in UTF-8, uint8 (bytes,). `captions` are kept as `classes`
are, n of them. `tokens` are float16 or float32 (n, L, D), of which each sample has the first `length`, integers (n,),
or all. All but the images is read into memory at once. Whatever else the file holds must be plain numbers too: strings
of HDF5's own are refused, as is a file that points out of itself (`tinyddpm.hdf5`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data.base import (
    CAPTIONS,
    LENGTH,
    TOKENS,
    ArrayDataset,
    Dataset,
    Samples,
    check_memory,
    checked_columns,
    checked_labels,
    describe,
    sample_shape,
)
from tinyddpm.errors import DataError
from tinyddpm.hdf5 import checked_datasets, open_file, reading

if TYPE_CHECKING:
    from tinyddpm.hdf5 import Datasets


class HDF5Dataset:
    """A `Dataset` over a dataset of images in an open HDF5 file. Threads may read at once: h5py takes turns.

    Raises:
        DataError: the images or labels are of another type or shape, or there are none.
    """

    def __init__(
        self,
        images: Any,
        labels: Samples | None,
        classes: tuple[str, ...],
        *,
        columns: Mapping[str, Samples] = {},
        name: str,
    ) -> None:
        self.shape = sample_shape(images.shape, images.dtype, name)
        if len(self.shape) != 3:
            raise DataError(f"{name}: `images` are points in {self.shape[0]} dimensions: name the dataset `points`")
        self.labels, self.classes = checked_labels(labels, len(images), classes, name)
        self.columns = checked_columns(columns, len(images), name)
        self.description = describe(name, len(images), self.shape, self.classes, self.columns)
        self._images = images
        self._name = name

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: NDArray[np.integer[Any]]) -> Samples:
        """Return the images at `indices`, read from the file.

        h5py wants indices that rise and do not repeat, so each image is read once and then put where it is asked for.

        Raises:
            DataError: this part of the file is damaged.
        """
        once, places = np.unique(indices, return_inverse=True)
        with reading(self._name, DataError):
            images: Samples = self._images[once]
        return images[places].reshape(len(indices), *self.shape)


def open_hdf5(path: Path) -> Dataset:
    """Return the data set in an HDF5 file. The file stays open as long as its images are in use.

    Raises:
        DataError: the file is damaged, lacks the dataset, holds something else, or points out of itself.
    """
    name = str(path)
    with ExitStack() as stack:
        file = stack.enter_context(open_file(path, DataError))
        datasets = checked_datasets(file, DataError)
        with reading(name, DataError):
            n = _count(datasets)
            labels, classes = _read(datasets, "labels", name, n), tuple(_strings(datasets, "classes", name))
            columns = _columns(datasets, name, n)
            if "images" not in datasets:
                return ArrayDataset(_points(datasets, name), labels, classes, columns=columns, name=name)
            dataset = HDF5Dataset(datasets["images"], labels, classes, columns=columns, name=name)
        stack.pop_all()  # the file stays open
        return dataset


def hdf5_columns(path: Path) -> dict[str, Samples]:
    """Return the columns in an HDF5 file, without the samples.

    Raises:
        DataError: the file is damaged, or points out of itself.
    """
    with open_file(path, DataError) as file, reading(str(path), DataError):
        return _columns(checked_datasets(file, DataError), str(path))


def _count(datasets: Datasets) -> int | None:
    """Return how many samples there are, as the shape of the images or points has it; None without."""
    samples = next((datasets[key] for key in ("images", "points") if key in datasets), None)
    return samples.shape[0] if samples is not None and samples.shape else None


def _points(datasets: Datasets, name: str) -> Samples:
    points = _read(datasets, "points", name)
    if points is None:
        raise DataError(f"{name} holds {', '.join(datasets) or 'nothing'}: name the dataset `images` or `points`")
    return points


def _columns(datasets: Datasets, name: str, n: int | None = None) -> dict[str, Samples]:
    arrays = {key: _read(datasets, key, name, n) for key in (TOKENS, LENGTH)}
    columns = {key: array for key, array in arrays.items() if array is not None}
    if "captions" in datasets:
        columns[CAPTIONS] = np.asarray(_strings(datasets, "captions", name), object)
    return columns


def _strings(datasets: Datasets, key: str, name: str) -> list[str]:
    """Return a list of strings, which is kept as JSON in UTF-8; none if there is no dataset of this name."""
    text = _read(datasets, key, name)
    if text is None:
        return []
    try:
        strings = json.loads(text.astype(np.uint8).tobytes())
    except (ValueError, RecursionError):
        strings = None
    if not isinstance(strings, list) or not strings or not all(isinstance(s, str) for s in strings):
        raise DataError(f"{name}: `{key}` is no JSON list of strings in UTF-8, as uint8: store it so, or leave it out")
    return strings


def _read(datasets: Datasets, key: str, name: str, n: int | None = None) -> Samples | None:
    """Return a whole dataset, of n rows where n is given; None if there is none of this name."""
    if key not in datasets:
        return None
    if n is not None and datasets[key].shape[:1] != (n,):
        raise DataError(f"{name}: `{key}` has the shape {datasets[key].shape}: store a row for each of {n} samples")
    check_memory(datasets[key].nbytes, f"{name}, `{key}`", "of an HDF5 file only images are read as needed; shrink it")
    array: Samples = np.asarray(datasets[key][()])
    return array
