"""Arrays saved by NumPy: an `.npy` file is memory-mapped, an `.npz` file read into memory. Neither is ever unpickled.

The array holds images, (n, H, W) or (n, H, W, C), or floating points, (n, D). Images are uint8, or of another type
whose levels are certain or given (`levels.py`). The names of samples and labels in an `.npz` file are those in
`keys.py`. The file may also have `captions`, strings (n,), and `tokens`, float16 or float32 (n, L, D), with `length`,
integers (n,), if not all L tokens of each sample are used.
"""

from __future__ import annotations

import math
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from tinyddpm.data.base import (
    CAPTIONS,
    LENGTH,
    TOKENS,
    ArrayDataset,
    Dataset,
    Samples,
    check_memory,
    require_split,
)
from tinyddpm.data.keys import LABEL_KEYS, SAMPLE_KEYS, by_split, labels_of, say_unread
from tinyddpm.data.levels import BYTES, Levels, eight_bits, levelled
from tinyddpm.errors import DataError

COLUMN_KEYS = {"captions": CAPTIONS, "tokens": TOKENS, "length": LENGTH}
"""The names of columns in a file, and the names of these columns in a data set."""
LONGEST_HEADER = 10_000
"""Largest size of an `.npy` header in bytes; NumPy distrusts longer ones too."""
DAMAGE = (
    OSError, ValueError, TypeError, OverflowError, MemoryError, EOFError, RuntimeError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""Exceptions that NumPy and zipfile raise for damaged files and for impossible shapes."""


def open_npy(path: Path, levels: Levels | None = None) -> Dataset:
    """Return the images or points of an `.npy` file. uint8 images stay on disk and are read when asked for.

    Raises:
        DataError: the file is damaged or pickled, or its array is neither images nor points.
    """
    try:
        with path.open("rb") as stream:
            _check_header(stream)
        samples = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGE as cause:
        raise _unreadable(path, cause) from cause
    if not isinstance(samples, np.ndarray):
        raise DataError(f"{path} is no .npy file, whatever its name says: name it .npz if it holds several arrays")
    return _dataset(samples, levels, path)


def open_npz(path: Path, split: str = "train", levels: Levels | None = None) -> Dataset:
    """Return the images or points of an `.npz` file, with its labels and columns.

    Raises:
        DataError: the file is damaged, pickled or too large for memory, lacks the samples or the split, or its arrays
            have other types or shapes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            keys = _keys(archive)
            samples_keys, labels_keys = by_split(keys, SAMPLE_KEYS), by_split(keys, LABEL_KEYS)
            if not samples_keys:
                raise DataError(
                    f"{path} holds {', '.join(keys) or 'nothing'}: save the array as `images` (or `points`)"
                )
            require_split(split, tuple(samples_keys), str(path))
            samples = read_member(archive, samples_keys[split], path)
            labels = {part: _read_labels(archive, key, path) for part, key in labels_keys.items()}
            columns = _columns(archive, keys, path)
            read = {*samples_keys.values(), *labels_keys.values(), *COLUMN_KEYS}
            shapes = {key: _shape(archive, key) for key in keys if key not in read}
            if samples.ndim:
                say_unread(shapes, read, len(samples), str(path))
    except DAMAGE as cause:
        raise _unreadable(path, cause) from cause
    here, classes = labels_of(split, labels, (), str(path))
    return _dataset(samples, levels, path, here, classes, columns)


def _dataset(
    samples: Samples,
    levels: Levels | None,
    path: Path,
    labels: Samples | None = None,
    classes: tuple[str, ...] = (),
    columns: Mapping[str, Samples] = {},
) -> Dataset:
    """Return the data set of an array, with images scaled to uint8."""
    if samples.ndim in (3, 4) and samples.size and samples.dtype != np.uint8 and samples.dtype.kind in "biuf":
        check_memory(samples.size, str(path))
        samples, levels = eight_bits(samples, levels, str(path)), BYTES
    return levelled(ArrayDataset(samples, labels, classes, columns=columns, name=str(path)), levels)


def npz_columns(path: Path) -> dict[str, Samples]:
    """Return the columns in an `.npz` file, without the samples.

    Raises:
        DataError: the file is damaged or pickled, or too large for memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _columns(archive, _keys(archive), path)
    except DAMAGE as cause:
        raise _unreadable(path, cause) from cause


def npz_text(path: Path, key: str) -> str:
    """Return the string called `key` in an `.npz` file, or "" if it has none.

    Raises:
        DataError: the file is damaged, pickled or too large for memory, or `key` is no string.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{key}.npy" not in archive.namelist():
                return ""
            return str(_strings(read_member(archive, key, path), key, path).item())
    except DAMAGE as cause:
        raise _unreadable(path, cause) from cause


def _keys(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays in an archive."""
    return [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]


def _shape(archive: zipfile.ZipFile, key: str) -> tuple[int, ...]:
    """Return the shape that an array declares, () if it cannot be read."""
    try:
        with archive.open(_member(archive, key)) as stream:
            return declared(stream)[0]
    except DAMAGE:
        return ()


def _member(archive: zipfile.ZipFile, key: str) -> zipfile.ZipInfo:
    """Return the member of an archive that holds an array. It may be compressed as NumPy does, in no other way."""
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{key} is compressed in a way that NumPy does not use")
    return info


def _columns(archive: zipfile.ZipFile, keys: list[str], path: Path) -> dict[str, Samples]:
    columns = {to: read_member(archive, key, path) for key, to in COLUMN_KEYS.items() if key in keys}
    if CAPTIONS in columns:
        columns[CAPTIONS] = _strings(columns[CAPTIONS], "captions", path)
    return columns


def _strings(array: Samples, key: str, path: Path) -> Samples:
    """Return an array of strings as Python objects, after a check that its four-byte characters are valid."""
    if array.dtype.kind != "U":
        raise DataError(f"{path}: {key} are {array.dtype}: store strings, numpy.asarray({key}, str)")
    numbers = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    if numbers.max(initial=0) > sys.maxunicode:
        raise DataError(f"{path}: {key} hold {numbers.max()}, the number of no character: save them anew")
    return array.astype(object)


def read_member(archive: zipfile.ZipFile, key: str, path: Path) -> Samples:
    """Return one array of an archive. It must declare as many bytes as the archive holds, which bounds the memory."""
    info = _member(archive, key)
    check_memory(info.file_size, str(path))
    with archive.open(info) as stream:
        shape, dtype = declared(stream)
        size = math.prod(shape) * dtype.itemsize
        if size != info.file_size - stream.tell():
            raise ValueError(f"{key} declares {size} bytes and holds {info.file_size - stream.tell()}")
    with archive.open(info) as stream:
        array: Samples = npy.read_array(stream, allow_pickle=False)
        return array


def _read_labels(archive: zipfile.ZipFile, key: str, path: Path) -> Samples:
    labels = read_member(archive, key, path)
    return _strings(labels, key, path) if labels.dtype.kind == "U" else labels


def declared(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the type that an `.npy` header declares.

    Raises:
        ValueError: the header is damaged, or declares Python objects.
    """
    _check_header(stream)
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the .npy format")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, dtype


def _check_header(stream: IO[bytes]) -> None:
    """Raise a ValueError if an `.npy` file declares too long a header, all of which NumPy would read into memory."""
    start = stream.read(12)
    stream.seek(0)
    if start.startswith(npy.MAGIC_PREFIX) and start[6] > 1:
        length = int.from_bytes(start[8:], "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"it has a header of {length} bytes")


def _unreadable(path: Path, cause: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({cause}): save it anew with numpy.save or numpy.savez, without objects")
