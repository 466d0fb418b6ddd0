"""Arrays that NumPy saved: `.npy` is memory-mapped, `.npz` is read into memory. Neither is ever unpickled.

The array is uint8 images (n, H, W) or (n, H, W, C), or floating points (n, D). In `.npz` it is called `images`,
`points`, `x` or `arr_0`, and the labels, if there are any, `labels`, `y` or `arr_1`. There may be `captions`, strings
(n,), and `tokens`, float16 or float32 (n, L, D), of which each sample has the first `length`, integers (n,), or all.
"""

from __future__ import annotations

import math
import sys
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from tinyddpm.data.base import CAPTIONS, LENGTH, TOKENS, ArrayDataset, Samples, check_memory
from tinyddpm.errors import DataError

SAMPLE_KEYS = ("images", "points", "x", "arr_0")
LABEL_KEYS = ("labels", "y", "arr_1")
COLUMN_KEYS = {"captions": CAPTIONS, "tokens": TOKENS, "length": LENGTH}
"""Under which names columns are kept in a file, and what they are called in a data set."""
DAMAGE = (
    OSError, ValueError, TypeError, OverflowError, MemoryError, EOFError, RuntimeError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy and zipfile raise for damaged files, and for shapes that no array has."""


def open_npy(path: Path) -> ArrayDataset:
    """Return the images or points of an `.npy` file; images are read from disk as they are asked for.

    Raises:
        DataError: the file is damaged, pickled, or holds something else.
    """
    try:
        samples = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGE as cause:
        raise _unreadable(path, cause) from cause
    if not isinstance(samples, np.ndarray):
        raise DataError(f"{path} is no .npy file, whatever its name says: name it .npz if it holds several arrays")
    return ArrayDataset(samples, name=str(path))


def open_npz(path: Path) -> ArrayDataset:
    """Return the images or points of an `.npz` file, with labels if it has them.

    Raises:
        DataError: the file is damaged or pickled, lacks the array, holds something else, or is too large for memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [member.removesuffix(".npy") for member in archive.namelist()]
            samples_key = next((key for key in SAMPLE_KEYS if key in keys), None)
            labels_key = next((key for key in LABEL_KEYS if key in keys), None)
            if samples_key is None:
                raise DataError(
                    f"{path} holds {', '.join(keys) or 'nothing'}: save the array as `images` (or `points`)"
                )
            samples = _read_member(archive, samples_key, path)
            labels = _read_member(archive, labels_key, path) if labels_key else None
            if labels is not None and labels.dtype.kind == "U":
                labels = _strings(labels, "labels", path)
            columns = _columns(archive, keys, path)
    except DAMAGE as cause:
        raise _unreadable(path, cause) from cause
    return ArrayDataset(samples, labels, columns=columns, name=str(path))


def npz_columns(path: Path) -> dict[str, Samples]:
    """Return the columns in an `.npz` file, without the samples.

    Raises:
        DataError: the file is damaged or pickled, or too large for memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _columns(archive, [member.removesuffix(".npy") for member in archive.namelist()], path)
    except DAMAGE as cause:
        raise _unreadable(path, cause) from cause


def npz_text(path: Path, key: str) -> str:
    """Return the string called `key` in an `.npz` file, "" if there is none.

    Raises:
        DataError: the file is damaged or pickled, too large for memory, or holds something else of this name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{key}.npy" not in archive.namelist():
                return ""
            return str(_strings(_read_member(archive, key, path), key, path).item())
    except DAMAGE as cause:
        raise _unreadable(path, cause) from cause


def _columns(archive: zipfile.ZipFile, keys: list[str], path: Path) -> dict[str, Samples]:
    columns = {to: _read_member(archive, key, path) for key, to in COLUMN_KEYS.items() if key in keys}
    if CAPTIONS in columns:
        columns[CAPTIONS] = _strings(columns[CAPTIONS], "captions", path)
    return columns


def _strings(array: Samples, key: str, path: Path) -> Samples:
    """Return strings as objects. In NumPy a character is four bytes, which are checked before Python sees them."""
    if array.dtype.kind != "U":
        raise DataError(f"{path}: {key} are {array.dtype}: store strings, numpy.asarray({key}, str)")
    numbers = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    if numbers.max(initial=0) > sys.maxunicode:
        raise DataError(f"{path}: {key} hold {numbers.max()}, the number of no character: save them anew")
    return array.astype(object)


def _read_member(archive: zipfile.ZipFile, key: str, path: Path) -> Samples:
    """Return one array. It must declare as many bytes as the archive holds, so nothing huge is allocated."""
    info = archive.getinfo(f"{key}.npy")
    check_memory(info.file_size, str(path))
    with archive.open(info) as stream:
        declared = _declared_bytes(stream)
        if declared != info.file_size - stream.tell():
            raise ValueError(f"{key} declares {declared} bytes and holds {info.file_size - stream.tell()}")
    with archive.open(info) as stream:
        array: Samples = npy.read_array(stream, allow_pickle=False)
        return array


def _declared_bytes(stream: IO[bytes]) -> int:
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the .npy format")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return math.prod(shape) * dtype.itemsize


def _unreadable(path: Path, cause: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({cause}): save it anew with numpy.save or numpy.savez, without objects")
