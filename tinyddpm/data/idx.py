"""The IDX format of MNIST and similar sets (http://yann.lecun.com/exdb/mnist/): a header of sizes, then bytes.

The header is 0, 0, the type (8 for unsigned bytes), the number of dimensions, then each dimension as a big-endian
32-bit integer. A file of images has three dimensions (n, H, W) or four (n, H, W, C). The file of labels beside it has
one, and `labels` and `idx1` in its name instead of `images` and `idx3`. Either may be gzipped.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import warnings
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data.base import ArrayDataset, check_memory, require_split
from tinyddpm.data.splits import split_called
from tinyddpm.errors import DataError, TinyDDPMWarning

DEFLATE_RATIO = 1032
"""Largest number of bytes that one byte of deflate expands to (zlib's technical notes): it bounds a file's content."""
SPLITS = ("train", "test")


def open_idx(
    path: Path,
    *,
    classes: tuple[str, ...] = (),
    name: str | None = None,
    sha256: tuple[str | None, str | None] = (None, None),
) -> ArrayDataset:
    """Return the images of an IDX file, with the labels of the file beside it if there is one.

    Args:
        path: the file of images or the file of labels.
        classes: the names of the classes; their numbers if not given.
        name: the name of the data set in its description; its path if not given.
        sha256: the required SHA-256 of the decompressed images and labels, each None if any is accepted.

    Raises:
        DataError: a file is missing, damaged, or of another kind than its name says, or the numbers of images and
            labels differ.
    """
    images_path, labels_path = _pair(path)
    images = read_idx(images_path, sha256[0])
    if images.ndim not in (3, 4):
        raise DataError(f"{images_path}: {images.ndim} dimensions are no images: give a file of (n, H, W)")
    if labels_path is None:
        _say_strays(images_path)
        return ArrayDataset(images, name=name or str(path))
    labels = read_idx(labels_path, sha256[1])
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_path}: labels of shape {labels.shape} do not fit the {len(images)} images of {images_path}:"
            " use the two files of one set"
        )
    return ArrayDataset(images, labels, classes, name=name or str(path))


def find_images(folder: Path, split: str) -> Path | None:
    """Return the path of the IDX images for `split` in `folder`; None if the folder has no IDX images.

    Names have the word `t10k`, or another name of the test set, for the test set; any other file is a training set.

    Raises:
        DataError: there are several such files, or only those of another split.
    """
    found = sorted(p for p in folder.iterdir() if _names_idx(p, "images") and p.is_file())
    if not found:
        return None
    require_split(split, SPLITS, str(folder))
    named = [p for p in found if split_of(p) == split]
    named = [p for p in named if p.name.startswith(split)] or named
    if not named:
        raise DataError(
            f"{folder} holds no IDX images for the split {split!r}, only {found[0].name}: use another split"
        )
    plain = {p.name.removesuffix(".gz") for p in named}
    if len(plain) > 1:
        raise DataError(f"{folder} holds several IDX sets ({', '.join(sorted(plain))}): give the path of one file")
    return named[0]


def is_idx(path: Path) -> bool:
    """Return whether the file's name is one of IDX images or labels."""
    return _names_idx(path, "images") or _names_idx(path, "labels")


def split_of(path: Path) -> str:
    """Return the split of an IDX file by its name, "train" or "test"."""
    words = re.split("[-_.]", path.name)
    return "test" if any(word == "t10k" or split_called(word) == "test" for word in words) else "train"


def read_idx(path: Path, sha256: str | None = None) -> NDArray[np.uint8]:
    """Return the array of unsigned bytes in an IDX file, gzipped or not.

    The file's size, times `DEFLATE_RATIO` if gzipped, bounds what is read and allocated.

    Raises:
        DataError: the file cannot be read, has another format, is shorter or longer than its header says, or its
            decompressed content has another SHA-256.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            content = cast(IO[bytes], stream)
            header, shape = _read_header(content, path)
            declared = math.prod(shape)
            if len(header) + declared > size * (DEFLATE_RATIO if packed else 1):
                raise _truncated(path, shape)
            check_memory(declared, str(path))
            array = np.empty(shape, np.uint8)
            _fill(content, array, path)
            if content.read(1):
                raise DataError(f"{path}: more bytes than its header's {shape} declares: get an undamaged copy")
    except (OSError, EOFError, zlib.error) as cause:
        raise DataError(f"{path}: cannot be read ({cause}): get an undamaged copy") from cause
    if sha256 is not None and _digest(header, array) != sha256:
        raise DataError(f"{path}: its content is not the published one (SHA-256 differs): get an undamaged copy")
    return array


def _read_header(stream: IO[bytes], path: Path) -> tuple[bytes, tuple[int, ...]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != b"\x00\x00\x08" or not 1 <= magic[3] <= 4:
        raise DataError(
            f"{path}: not an IDX file of unsigned bytes (its first bytes are {magic.hex(' ') or 'missing'},"
            " not 00 00 08 and 1 to 4): check the path"
        )
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path}: truncated inside its header: get an undamaged copy")
    return magic + sizes, tuple(int(n) for n in np.frombuffer(sizes, ">u4"))


def _fill(stream: IO[bytes], array: NDArray[np.uint8], path: Path) -> None:
    view = array.reshape(-1).data
    filled = 0
    while filled < len(view):
        chunk = stream.read(min(len(view) - filled, 2**20))
        if not chunk:
            raise _truncated(path, array.shape)
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)


def _truncated(path: Path, shape: tuple[int, ...]) -> DataError:
    return DataError(f"{path}: truncated, fewer bytes than its header's {shape} declares: get an undamaged copy")


def _digest(header: bytes, array: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(header)
    digest.update(array.data)
    return digest.hexdigest()


def _names_idx(path: Path, content: str) -> bool:
    return content in path.name and ("idx" in path.name or "ubyte" in path.name) and not path.name.startswith(".")


def _pair(path: Path) -> tuple[Path, Path | None]:
    """Return the files of images and of labels, one of which is `path`; None for labels that do not exist."""
    if "labels" in path.name:
        images = _beside(path, path.name.replace("labels", "images").replace("idx1", "idx3"))
        if images is None:
            raise DataError(f"{path}: there is no file of images beside these labels: put it there")
        return images, path
    return path, _beside(path, path.name.replace("images", "labels").replace("idx3", "idx1"))


def _say_strays(images: Path) -> None:
    """Warn of files beside unlabelled images that are called as labels of the same split in another form."""
    strays = [p for p in images.parent.iterdir() if "labels" in p.name and split_of(p) == split_of(images)]
    if strays:
        warnings.warn(
            f"{min(strays)} is not read: call it as {images.name}, with labels for images and idx1 for idx3",
            TinyDDPMWarning,
            stacklevel=2,
        )


def _beside(path: Path, name: str) -> Path | None:
    plain = name.removesuffix(".gz")
    candidates = (path.with_name(n) for n in (name, plain, plain + ".gz"))
    return next((p for p in candidates if p != path and p.is_file()), None)
