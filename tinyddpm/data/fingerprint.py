"""The fingerprint of a data set: hashes of its parts, stored in checkpoints to recognise the data on resuming."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from math import prod

import numpy as np

from tinyddpm.data.base import Dataset, Samples
from tinyddpm.data.resize import Resized
from tinyddpm.progress import Watch, unwatched

READ = 2**28
"""Largest number of bytes of samples to hash; of a larger data set, evenly spread samples are hashed."""
AT_ONCE = 2**24
"""Bytes of samples read at a time."""


def fingerprint(dataset: Dataset, watch: Watch = unwatched) -> dict[str, str]:
    """Return what identifies a data set: its number of samples and hashes of its other parts, by names for messages.

    The order of the samples counts. Images that are resized on reading are hashed at their original size.

    Args:
        dataset: the data set.
        watch: called with the number of samples read.
    """
    while isinstance(dataset, Resized):
        dataset = dataset.source
    columns = dataset.columns
    return {
        "the number of samples": str(len(dataset)),
        "the classes": _digest([json.dumps(dataset.classes).encode()]),
        "the labels": _digest([] if dataset.labels is None else _bytes(dataset.labels)),
        "the captions and columns": _digest(part for key in sorted(columns) for part in _column(key, columns[key])),
        "the samples": _samples(dataset, watch),
    }


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the parts whose hashes differ between two fingerprints."""
    return [what for what, digest in before.items() if now.get(what) != digest]


def _samples(dataset: Dataset, watch: Watch) -> str:
    size = prod(dataset.shape) * (1 if len(dataset.shape) == 3 else 4)
    n = len(dataset)
    indices = np.unique(np.linspace(0, n - 1, min(n, max(1, READ // size))).astype(np.int64))
    count = max(1, AT_ONCE // size)

    def pieces() -> Iterator[bytes | memoryview]:
        for begin in range(0, len(indices), count):
            yield from _bytes(dataset.read(indices[begin : begin + count]))
            watch(min(begin + count, len(indices)), len(indices), "samples read")

    return _digest(pieces())


def _column(key: str, column: Samples) -> Iterator[bytes | memoryview]:
    yield key.encode()
    yield from [json.dumps(column.tolist()).encode()] if column.dtype == object else _bytes(column)


def _bytes(array: Samples) -> Iterator[bytes | memoryview]:
    yield f"{array.dtype.str} {array.shape} ".encode()
    yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
