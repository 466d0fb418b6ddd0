"""Caches of computed arrays, in files that are named by the hash of everything that the arrays depend on.

An interrupted command resumes where it stopped, nothing is computed twice, and a result with other inputs has another
name.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm import __version__
from tinyddpm.errors import DataError
from tinyddpm.files import replacing, sweep

Arrays = Mapping[str, NDArray[Any]]


def digest(*parts: Any) -> str:
    """Return the SHA-256, in hexadecimal, of numeric arrays and JSON values, and of this library's version."""
    found = sha256(__version__.encode())
    for part in parts:
        if isinstance(part, np.ndarray | np.generic):
            found.update(f"{part.dtype.str}{part.shape}".encode())
            found.update(np.ascontiguousarray(part).data)
        else:
            found.update(json.dumps(part, sort_keys=True).encode())
    return found.hexdigest()


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as cause:
        raise DataError(f"{path} cannot be read ({cause}): remove it, and it is computed anew") from cause


def _write(path: Path, arrays: Arrays) -> None:
    with replacing(path) as stream:
        np.savez(stream, allow_pickle=False, **arrays)


class Cache:
    """A cache of arrays and numbers in a folder, which is made when the first file is written.

    Files are written completely or not at all. Two processes may share a folder: files of one name are equal.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sweep(folder)

    def has(self, kind: str, key: str) -> bool:
        """Return whether the cache has arrays of this kind and key."""
        return self._path(kind, key).is_file()

    def arrays(self, kind: str, key: str, compute: Callable[[], Arrays]) -> Arrays:
        """Return the cached arrays of this kind and key; if there are none, call `compute` and write its arrays.

        Raises:
            DataError: the file cannot be read or written.
        """
        path = self._path(kind, key)
        if path.is_file():
            return _read(path)
        found = compute()
        _write(path, found)
        return found

    def numbers(self, key: str, compute: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """Return the cached numbers of this key; if there are none, call `compute` and write its numbers."""
        values = self.arrays("numbers", key, lambda: {n: np.asarray(value) for n, value in compute().items()})
        return {name: float(value) for name, value in values.items()}

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.npz"


class KeptRows:
    """A cache of rows of arrays in a folder, one file per computed batch. The folder is made with the first file.

    Each row has a key of its own, so it is found again in any batch and order.

    Args:
        folder: the folder of rows of all kinds.
        about: the arrays or JSON values that all rows depend on; rows with other values are not found.
    """

    def __init__(self, folder: Path, *about: Any) -> None:
        self.about = digest(*about)
        self.folder = folder / self.about[:32]

    def keys(self, *columns: NDArray[Any]) -> list[str]:
        """Return the keys of n rows by the columns that each depends on, (n, …) each."""
        return [digest(self.about, *row) for row in zip(*columns, strict=True)]

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(len(_read(path)["keys"]) for path in self._files())

    def find(self, keys: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], Arrays]]:
        """Yield, for each file with some of these rows, their indices in `keys` and their arrays.

        Raises:
            DataError: a file cannot be read.
        """
        places = {key: i for i, key in enumerate(keys)}
        for path in self._files():
            arrays = _read(path)
            found = [(row, places.pop(key)) for row, key in enumerate(arrays.pop("keys").tolist()) if key in places]
            if found:
                rows, wanted = np.array(found).T
                yield wanted, {name: array[rows] for name, array in arrays.items()}

    def add(self, keys: Sequence[str], arrays: Arrays) -> None:
        """Write rows and their keys as one file.

        Raises:
            DataError: the file cannot be written.
        """
        _write(self.folder / f"{digest(list(keys))[:32]}.npz", {"keys": np.array(keys), **arrays})

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.npz"))
