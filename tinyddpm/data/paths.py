"""Opening the data set at a path: the reader of a file is chosen by its name, that of a folder by the files in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyddpm.data import PATH_OPTIONS, cifar, idx
from tinyddpm.data.arrays import npz_columns, open_npy, open_npz
from tinyddpm.data.base import TOKENS, Dataset, Samples, checked_columns, require_split
from tinyddpm.data.folder import holds_images, open_folder
from tinyddpm.data.hdf5 import hdf5_columns, open_hdf5
from tinyddpm.data.image_files import SUFFIXES, Reading
from tinyddpm.data.levels import Levels, levelled, parse_levels
from tinyddpm.data.parquet import SUFFIX as PARQUET
from tinyddpm.data.parquet import find_parquet, open_parquet
from tinyddpm.data.resize import resized
from tinyddpm.data.table import open_table
from tinyddpm.errors import ConfigError, DataError, unknown
from tinyddpm.files import check_file
from tinyddpm.progress import Watch, unwatched


def open_path(
    path: Path,
    image_size: tuple[int, int] | None,
    split: str,
    options: Mapping[str, Any],
    watch: Watch = unwatched,
    cache: bool = False,
) -> Dataset:
    """Return the data set in a file or folder.

    Args:
        path: the file or folder.
        image_size: (H, W) to crop and resize images to; None to leave them as they are.
        split: the split to read.
        options: "levels", the values of black and white such as "0:4095" (`levels.py`); and for image files, in a
            folder or in Parquet, "background" and "frames" (`image_files.py`).
        watch: called with the progress of reading image files.
        cache: whether decoded images are cached on disk if decoding takes long.

    Raises:
        DataError: the format is unknown, a file is damaged, or the split does not exist.
        ConfigError: an option is unknown or wrong.
    """
    for key, value in options.items():
        if key not in PATH_OPTIONS:
            raise ConfigError(f"{path} is a path: {unknown('option', key, PATH_OPTIONS)}")
        if not isinstance(value, str):
            raise ConfigError(f"option {key} of {path} is {value!r}: give a text")
    others = dict(options)
    levels = parse_levels(others.pop("levels", ""))
    try:
        reading = Reading(image_size, **others, levels=levels, watch=watch, cache=cache)
        if path.is_dir():
            return _open_folder(path, split, reading, others)
        if path.suffix.lower() == PARQUET:
            return open_parquet(path, [path], split, reading)
        _refuse(others, path)
        return resized(_open_file(path, split, levels), image_size)
    except OSError as cause:
        raise DataError(f"{path}: cannot be read ({cause.strerror or cause}): check the path and its rights") from cause


def open_tokens(path: Path) -> Mapping[str, Samples]:
    """Return the columns of an `.npz` or HDF5 file of tokens, which need not have samples.

    Raises:
        DataError: the file has another format, has no tokens, is damaged, or cannot be read.
    """
    readers = {".npz": npz_columns, ".h5": hdf5_columns, ".hdf5": hdf5_columns}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} holds no tokens: save them as `tokens`, (n, L, D), in .npz, .h5 or .hdf5")
    try:
        check_file(path)
        columns = readers[path.suffix.lower()](path)
    except OSError as cause:
        raise DataError(f"{path}: cannot be read ({cause.strerror or cause}): check the path and its rights") from cause
    if TOKENS not in columns:
        raise DataError(f"{path} holds no tokens: save them as `tokens`, float16 or float32 (n, L, D)")
    return checked_columns(columns, len(columns[TOKENS]), str(path))


def _open_folder(path: Path, split: str, reading: Reading, others: Mapping[str, str]) -> Dataset:
    cifar_folder = cifar.find(path)
    images = None if cifar_folder else idx.find_images(path, split)
    if cifar_folder:
        found = cifar.open_cifar(cifar_folder, split)
    elif images:
        found = idx.open_idx(images)
    else:
        files = find_parquet(path)
        if files and not holds_images(path):
            return open_parquet(path, files, split, reading)
        return open_folder(path, split, reading)
    _refuse(others, path)
    return resized(levelled(found, reading.levels), reading.image_size)


def _refuse(options: Mapping[str, str], path: Path) -> None:
    """Raise a ConfigError if options of image files are given for a path without image files."""
    if options:
        raise ConfigError(f"{path} is no folder of image files: leave out {', '.join(options)}")


def _open_file(path: Path, split: str, levels: Levels | None) -> Dataset:
    check_file(path)
    if idx.is_idx(path):
        if split != idx.split_of(path):
            raise DataError(f"{path} holds the split {idx.split_of(path)!r}, not {split!r}: give the other file's path")
        return levelled(idx.open_idx(path), levels)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return open_npz(path, split, levels)
    if suffix in (".h5", ".hdf5"):
        return open_hdf5(path, split, levels)
    if suffix in (".npy", ".csv"):
        require_split(split, ("train",), str(path))
        return open_npy(path, levels) if suffix == ".npy" else open_table(path, levels)
    if suffix in SUFFIXES:
        raise DataError(f"{path} is a single image: give the folder that it is in")
    if suffix == ".bin":
        raise DataError(f"{path}: CIFAR-10 comes in several files: give the folder that holds them")
    raise DataError(
        f"{path} is not understood: give a folder of images, IDX files, CIFAR-10's binary files, .npy, .npz, .csv,"
        " .h5, .hdf5 or .parquet"
    )
