"""What a path holds: the reader is chosen by name and kind, and a folder by the files in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tinyddpm.data import cifar, idx
from tinyddpm.data.arrays import npz_columns, open_npy, open_npz
from tinyddpm.data.base import TOKENS, Dataset, Samples, checked_columns, require_split
from tinyddpm.data.folder import SUFFIXES, open_folder
from tinyddpm.data.hdf5 import hdf5_columns, open_hdf5
from tinyddpm.data.resize import resized
from tinyddpm.errors import DataError
from tinyddpm.files import check_file

READERS: dict[str, Callable[[Path], Dataset]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
}


def open_path(path: Path, image_size: tuple[int, int] | None, split: str) -> Dataset:
    """Return the data set in a file or folder, its images at `image_size` if given.

    Raises:
        DataError: the path holds nothing that is understood, it is damaged, or there is no such split.
    """
    try:
        if path.is_dir():
            return _open_folder(path, image_size, split)
        return resized(_open_file(path, split), image_size)
    except OSError as cause:
        raise DataError(f"{path}: cannot be read ({cause.strerror or cause}): check the path and its rights") from cause


def open_tokens(path: Path) -> Mapping[str, Samples]:
    """Return the columns of a file of tokens, `.npz` or HDF5, that is no data set: there need be no samples.

    Raises:
        DataError: it is no such file, has no tokens, is damaged, or cannot be read.
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


def _open_folder(path: Path, image_size: tuple[int, int] | None, split: str) -> Dataset:
    cifar_folder = cifar.find(path)
    if cifar_folder is not None:
        return resized(cifar.open_cifar(cifar_folder, split), image_size)
    images = idx.find_images(path, split)
    if images is not None:
        return resized(idx.open_idx(images), image_size)
    return open_folder(path, split, image_size)


def _open_file(path: Path, split: str) -> Dataset:
    check_file(path)
    if idx.is_idx(path):
        if split != idx.split_of(path):
            raise DataError(f"{path} holds the split {idx.split_of(path)!r}, not {split!r}: give the other file's path")
        return idx.open_idx(path)
    suffix = path.suffix.lower()
    if suffix in READERS:
        require_split(split, ("train",), str(path))
        return READERS[suffix](path)
    if suffix in SUFFIXES:
        raise DataError(f"{path} is a single image: give the folder that it is in")
    if suffix == ".bin":
        raise DataError(f"{path}: CIFAR-10 comes in several files: give the folder that holds them")
    raise DataError(
        f"{path} is not understood: give a folder of images, IDX files, CIFAR-10's binary files, .npy, .npz, .h5"
        " or .hdf5"
    )
