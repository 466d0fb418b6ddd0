"""Data sets in HDF5 files, whose images stay on disk and are read when asked for.

A file holds `images` or `points`, and any of the other datasets. `keys.py` has further names for the first three:

    images      (n, H, W) or (n, H, W, C), uint8, or of another type whose levels are certain or given (`levels.py`)
    points      (n, D), floating
    labels      (n,), integers
    classes     (bytes,) uint8: the names of the classes as a JSON list in UTF-8
    captions    (bytes,) uint8: n captions as a JSON list in UTF-8
    tokens      (n, L, D), float16 or float32
    length      (n,), integers: how many tokens of each sample are used, if not all

All but the images is read into memory at once. Any other dataset must hold plain numbers too: HDF5's own strings are
refused, and so are links to other files (`tinyddpm.hdf5`).
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
    require_split,
    sample_shape,
)
from tinyddpm.data.keys import LABEL_KEYS, SAMPLE_KEYS, by_split, labels_of, say_unread
from tinyddpm.data.levels import Levels, levelled
from tinyddpm.errors import DataError
from tinyddpm.hdf5 import checked_datasets, open_file, reading

if TYPE_CHECKING:
    from tinyddpm.hdf5 import Datasets


class HDF5Dataset:
    """A `Dataset` over a dataset of images in an open HDF5 file, of any plain type; `levelled` scales them to uint8.

    Several threads may read; h5py serves one at a time.

    Raises:
        DataError: the images or labels have another type or shape, or there are none.
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
        is_plain = images.ndim in (3, 4) and images.dtype.kind in "biuf"
        self.shape = sample_shape(images.shape, np.dtype(np.uint8) if is_plain else images.dtype, name)
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

        h5py needs ascending indices without repeats, so each image is read once and then copied to its places.

        Raises:
            DataError: this part of the file is damaged.
        """
        once, places = np.unique(indices, return_inverse=True)
        with reading(self._name, DataError):
            images: Samples = self._images[once]
        in_order = np.array_equal(once, indices)  # which saves a copy of large images
        return (images if in_order else images[places]).reshape(len(indices), *self.shape)


def open_hdf5(path: Path, split: str = "train", levels: Levels | None = None) -> Dataset:
    """Return the data set in an HDF5 file. The file stays open as long as its images are in use.

    Raises:
        DataError: the file is damaged or links to other files, lacks the samples or the split, or its datasets have
            other types or shapes.
    """
    name = str(path)
    with ExitStack() as stack:
        file = stack.enter_context(open_file(path, DataError))
        datasets = checked_datasets(file, DataError)
        with reading(name, DataError):
            samples_keys, labels_keys = by_split([*datasets], SAMPLE_KEYS), by_split([*datasets], LABEL_KEYS)
            if not samples_keys:
                raise DataError(
                    f"{name} holds {', '.join(datasets) or 'nothing'}: name the dataset `images` or `points`"
                )
            require_split(split, tuple(samples_keys), name)
            counts = {part: _count(datasets[key]) for part, key in samples_keys.items()}
            key, classes = samples_keys[split], tuple(_strings(datasets, "classes", name))
            stored = {part: _read(datasets, of, name, counts.get(part)) for part, of in labels_keys.items()}
            labels, classes = labels_of(split, stored, classes, name)
            columns = _columns(datasets, name, counts[split])
            read = {*samples_keys.values(), *labels_keys.values(), "classes", "captions", TOKENS, LENGTH}
            say_unread({other: found.shape for other, found in datasets.items()}, read, counts[split] or 0, name)
            if datasets[key].ndim == 2 and "images" not in key:
                return levelled(
                    ArrayDataset(_read(datasets, key, name), labels, classes, columns=columns, name=name), levels
                )
            dataset = HDF5Dataset(datasets[key], labels, classes, columns=columns, name=name)
        scaled = levelled(dataset, levels)
        stack.pop_all()  # the file stays open
        return scaled


def hdf5_columns(path: Path) -> dict[str, Samples]:
    """Return the columns in an HDF5 file, without the samples.

    Raises:
        DataError: the file is damaged, or links to other files.
    """
    with open_file(path, DataError) as file, reading(str(path), DataError):
        return _columns(checked_datasets(file, DataError), str(path))


def _count(samples: Any) -> int | None:
    """Return the number of samples in a dataset; None for a scalar."""
    return samples.shape[0] if samples.shape else None


def _columns(datasets: Datasets, name: str, n: int | None = None) -> dict[str, Samples]:
    columns = {key: _read(datasets, key, name, n) for key in (TOKENS, LENGTH) if key in datasets}
    if "captions" in datasets:
        columns[CAPTIONS] = np.asarray(_strings(datasets, "captions", name), object)
    return columns


def _strings(datasets: Datasets, key: str, name: str) -> list[str]:
    """Return the list of strings in dataset `key`, JSON in UTF-8; [] if there is no such dataset."""
    if key not in datasets:
        return []
    try:
        strings = json.loads(_read(datasets, key, name).astype(np.uint8).tobytes())
    except (ValueError, RecursionError):
        strings = None
    if not isinstance(strings, list) or not strings or not all(isinstance(s, str) for s in strings):
        raise DataError(f"{name}: `{key}` is no JSON list of strings in UTF-8, as uint8: store it so, or leave it out")
    return strings


def _read(datasets: Datasets, key: str, name: str, n: int | None = None) -> Samples:
    """Return a whole dataset, after a check that it has n rows if n is given."""
    if n is not None and datasets[key].shape[:1] != (n,):
        raise DataError(f"{name}: `{key}` has the shape {datasets[key].shape}: store a row for each of {n} samples")
    check_memory(datasets[key].nbytes, f"{name}, `{key}`", "of an HDF5 file only images are read as needed; shrink it")
    array: Samples = np.asarray(datasets[key][()])
    return array
