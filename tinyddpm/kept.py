"""What a command has computed so far, in files that are found by the hash of all that they depend on.

So whatever is interrupted goes on, nothing is computed twice, and what depends on something else has another name.
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
    """Return the SHA-256 of arrays of numbers, and of what JSON can say, in hexadecimal; of this version's too."""
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
    """Arrays and numbers in a folder, which is made when the first is written.

    A file is whole or not there. Two evaluations may share a folder: they write the same under the same name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sweep(folder)

    def has(self, kind: str, key: str) -> bool:
        """Return whether arrays of this kind are there under this key."""
        return self._path(kind, key).is_file()

    def arrays(self, kind: str, key: str, compute: Callable[[], Arrays]) -> Arrays:
        """Return the arrays that are there under this key, or that `compute` returns, which are written.

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
        """Return the numbers that are there under this key, or that `compute` returns, which are written."""
        values = self.arrays("numbers", key, lambda: {n: np.asarray(value) for n, value in compute().items()})
        return {name: float(value) for name, value in values.items()}

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.npz"


class KeptRows:
    """Rows of arrays in a folder, a file for each batch that was computed, which is made when the first is written.

    A row is found by its own key, so it counts in whatever batches, numbers and order it is asked for again.

    Args:
        folder: of all rows.
        about: what all rows depend on, arrays or what JSON can say; rows that depend on something else are not seen.
    """

    def __init__(self, folder: Path, *about: Any) -> None:
        self.about = digest(*about)
        self.folder = folder / self.about[:32]

    def keys(self, *columns: NDArray[Any]) -> list[str]:
        """Return the keys of rows that depend on these columns, (n, …) each."""
        return [digest(self.about, *row) for row in zip(*columns, strict=True)]

    def __len__(self) -> int:
        """Return how many rows are there."""
        return sum(len(_read(path)["keys"]) for path in self._files())

    def find(self, keys: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], Arrays]]:
        """Yield, for each file that has some of these rows, which of `keys` they are, and their arrays.

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
        """Write rows, in a file of their own.

        Raises:
            DataError: it cannot be written.
        """
        _write(self.folder / f"{digest(list(keys))[:32]}.npz", {"keys": np.array(keys), **arrays})

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.npz"))
