"""CIFAR-10 in its binary version (https://www.cs.toronto.edu/~kriz/cifar.html), never the pickled one.

Each file consists of records of 3073 bytes: the label, then 32x32 bytes of red, of green and of blue, row by row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data.base import ArrayDataset, require_split
from tinyddpm.errors import DataError

RECORD = 1 + 3 * 32 * 32
FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
MOST_RECORDS = 10_000
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def find(folder: Path) -> Path | None:
    """Return the folder of CIFAR-10's binary files: `folder` or its subfolder `cifar-10-batches-bin`; None if neither.

    Raises:
        DataError: there is only the pickled version, which could run code when loaded.
    """
    every = [name for names in FILES.values() for name in names]
    for place in (folder, folder / "cifar-10-batches-bin"):
        if any((place / name).is_file() for name in every):
            return place
    for place in (folder, folder / "cifar-10-batches-py"):
        if any((place / name.removesuffix(".bin")).is_file() for name in every):
            raise DataError(
                f"{place} holds CIFAR-10 as Python pickles, which are not read because they can run code:"
                " take the binary version, cifar-10-binary.tar.gz"
            )
    return None


def open_cifar(folder: Path, split: str) -> ArrayDataset:
    """Return CIFAR-10's images, 32x32x3, with their labels: 50,000 to train on or 10,000 to test with.

    Raises:
        DataError: a file is missing, damaged, or has another layout.
    """
    require_split(split, tuple(FILES), str(folder))
    records = np.concatenate([_read_records(folder / name) for name in FILES[split]])
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ArrayDataset(np.ascontiguousarray(images), records[:, 0], _class_names(folder), name=str(folder))


def _read_records(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DataError(f"{path} is missing: put all of CIFAR-10's binary files into one folder")
    size = path.stat().st_size
    if size == 0 or size % RECORD or size > MOST_RECORDS * RECORD:
        raise DataError(
            f"{path}: {size} bytes are not 1 to {MOST_RECORDS} records of {RECORD} bytes: get an undamaged copy of"
            " CIFAR-10's binary version"
        )
    records = np.fromfile(path, np.uint8).reshape(-1, RECORD)
    if records[:, 0].max() > 9:
        raise DataError(f"{path}: label {records[:, 0].max()} is not in 0 to 9: get CIFAR-10's binary version")
    return records


def _class_names(folder: Path) -> tuple[str, ...]:
    path = folder / "batches.meta.txt"
    if not path.is_file():
        return CLASSES
    with path.open("rb") as stream:
        names = tuple(stream.read(4096).decode("utf-8", "replace").split())
    if len(names) != 10:
        raise DataError(f"{path}: {len(names)} class names, not 10: restore it, or delete it to use the usual names")
    return names
