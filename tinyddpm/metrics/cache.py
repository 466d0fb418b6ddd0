"""What an evaluation has computed so far, in files that are called by the hash of all that it depends on.

So whatever is interrupted goes on, nothing is computed twice, and what depends on something else has another name.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm import __version__
from tinyddpm.errors import DataError
from tinyddpm.figures.files import replacing
from tinyddpm.metrics.base import Numbers

Arrays = Mapping[str, NDArray[Any]]


def digest(*parts: Any) -> str:
    """Return the SHA-256 of arrays of numbers, and of what JSON can say, in hexadecimal; of this version's too."""
    found = sha256(__version__.encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype.str}{part.shape}".encode())
            found.update(np.ascontiguousarray(part).data)
        else:
            found.update(json.dumps(part, sort_keys=True).encode())
    return found.hexdigest()


class Cache:
    """Arrays and numbers in a folder, which is made when the first is written.

    A file is whole or not there. Two evaluations may share a folder: they write the same under the same name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
            try:
                with np.load(path, allow_pickle=False) as file:
                    return dict(file)
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as cause:
                raise DataError(f"{path} cannot be read ({cause}): remove it, and it is computed anew") from cause
        found = compute()
        with replacing(path) as stream:
            np.savez(stream, allow_pickle=False, **found)
        return found

    def numbers(self, key: str, compute: Callable[[], Numbers]) -> Numbers:
        """Return the numbers that are there under this key, or that `compute` returns, which are written."""
        values = self.arrays("numbers", key, lambda: {n: np.asarray(value) for n, value in compute().items()})
        return {name: float(value) for name, value in values.items()}

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.npz"
