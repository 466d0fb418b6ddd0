"""Data sets in HDF5 files, whose images are read as they are asked for.

A file holds `images`, uint8 (n, H, W) or (n, H, W, C), or `points`, floating (n, 2); and it may hold `labels`, integers
(n,), and `classes`, the names of the classes as a JSON list in UTF-8, uint8 (bytes,).

HDF5 can point out of the file (external links, external raw storage, virtual datasets) and load code (filter plugins).
All of that is refused, so that opening a file from elsewhere reads this file and nothing more.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data.base import (
    ArrayDataset,
    Dataset,
    Labels,
    Samples,
    check_memory,
    checked_labels,
    describe,
    sample_shape,
)
from tinyddpm.errors import DataError

EXPANSION = {1: 1032, 2: 1, 3: 1, 32000: 100}
"""How far each filter that is read can expand a byte, by HDF5's numbers: deflate, shuffle, fletcher32, LZF."""


class HDF5Dataset:
    """A `Dataset` over the dataset `images` of an open HDF5 file. Threads may read at once: h5py takes turns."""

    def __init__(self, images: Any, labels: Labels | None, classes: tuple[str, ...], name: str) -> None:
        self.shape = sample_shape(images.shape, images.dtype, name)
        self.labels, self.classes = labels, classes
        self.description = describe(name, len(images), self.shape, classes)
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
        try:
            images: Samples = self._images[once]
        except OSError as cause:
            raise DataError(f"{self._name}: images cannot be read ({cause}): get an undamaged copy") from cause
        return images[places].reshape(len(indices), *self.shape)


def open_hdf5(path: Path) -> Dataset:
    """Return the data set in an HDF5 file, which stays open as long as the data set is in use.

    Raises:
        DataError: the file is damaged, lacks the dataset, holds something else, or points out of itself.
    """
    # A filter plugin is native code that HDF5 would load from a folder; this stops the search before the library loads.
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
    import h5py

    name = str(path)
    try:
        file = h5py.File(path, "r")
        present = list(file)
        key = next((key for key in ("images", "points") if key in present), None)
        if key is None:
            raise DataError(f"{path} holds {', '.join(present) or 'nothing'}: name the dataset `images` or `points`")
        samples = _checked(file, key, name)
        labels = _read(file, "labels", name) if "labels" in present else None
        names = _class_names(_read(file, "classes", name), name) if "classes" in present else ()
        if key == "points":
            return ArrayDataset(_read(file, key, name), labels, names, name=name)
        kept_labels, classes = checked_labels(labels, len(samples), names, name)
        return HDF5Dataset(samples, kept_labels, classes, name)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as cause:
        raise DataError(f"{path}: cannot be read as HDF5 ({cause}): get an undamaged copy") from cause


def _checked(file: Any, key: str, name: str) -> Any:
    """Return the dataset `key` of `file`: it lies in this file, is as large as it says, and needs no plugins."""
    import h5py

    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise DataError(f"{name}: `{key}` is a link to elsewhere, which is not followed: copy the data into the file")
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim == 0:
        raise DataError(f"{name}: `{key}` is no array: store it as a dataset")
    if dataset.is_virtual or dataset.external:
        raise DataError(f"{name}: `{key}` is kept in other files, which are not read: copy the data into the file")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if foreign := set(filters).difference(EXPANSION):
        raise DataError(
            f"{name}: `{key}` uses the HDF5 filter {min(foreign)}: compress it with gzip, lzf or not at all"
        )
    stored = dataset.id.get_storage_size() * math.prod(EXPANSION[number] for number in filters)
    if dataset.nbytes > stored:
        raise DataError(
            f"{name}: `{key}` declares {dataset.nbytes} bytes, more than the file holds: get a complete copy"
        )
    return dataset


def _read(file: Any, key: str, name: str) -> Samples:
    dataset = _checked(file, key, name)
    check_memory(dataset.nbytes, name)
    array: Samples = dataset[()]
    return array


def _class_names(text: Samples, name: str) -> tuple[str, ...]:
    names = json.loads(text.tobytes()) if text.dtype == np.uint8 else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise DataError(f"{name}: `classes` is no JSON list of names as uint8: store it so, or leave it out")
    return tuple(names)
