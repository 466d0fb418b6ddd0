"""A folder of images, or of one subfolder per class.

    photos/1.jpg ...                  no classes
    photos/cat/1.jpg ...              classes are the names of the subfolders, in alphabetical order
    photos/train/cat/1.jpg ...        with splits, by any of their usual names (`splits.py`)

Files are taken in the order of their names; hidden ones and other kinds are passed over. If all images are grey they
have one channel, otherwise all are RGB. What is transparent is put on white, an EXIF orientation is applied, 16-bit
grey is rounded to 8 bits, and of an animation the first frame is taken. Captions, and classes that are no folders, may
be written beside them (`captions.py`).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tinyddpm.data.base import CAPTIONS, ArrayDataset, Labels, Samples, check_memory, require_split
from tinyddpm.data.captions import LABEL, TEXT, read_annotations
from tinyddpm.data.resize import fit
from tinyddpm.data.splits import split_called
from tinyddpm.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Pillow's readers that are used; it has others, some of which start programs."""
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True)
class Listing:
    """The images of a folder: their paths, the class of each if there are classes, and what else is known of them."""

    paths: list[Path]
    labels: Labels | None
    classes: tuple[str, ...]
    columns: Mapping[str, Samples]


def open_folder(folder: Path, split: str, image_size: tuple[int, int] | None = None) -> ArrayDataset:
    """Return the images in `folder`, decoded into memory.

    Args:
        folder: of images, of classes, or of splits.
        split: "train" or "test"; a folder without splits holds a training set.
        image_size: crop each image in the middle and resize it to (H, W); otherwise all must have one size.

    Raises:
        DataError: there are no images, one is broken, sizes differ, or they take more memory than a data set may.
    """
    listing = list_images(folder, split)
    paths = listing.paths
    channels = count_channels(paths)
    first = decode_image(paths[0], channels, image_size)
    check_memory(len(paths) * first.size, str(folder))
    images = np.empty((len(paths), *first.shape), np.uint8)

    def decode_into_place(i: int) -> None:
        image = decode_image(paths[i], channels, image_size)
        if image.shape != first.shape:
            raise DataError(
                f"{paths[0]} is {_size(first)} and {paths[i]} is {_size(image)}:"
                " bring all images to one size with --image-size HxW"
            )
        images[i] = image

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode_into_place, range(len(paths))):
            pass
    return ArrayDataset(images, listing.labels, listing.classes, columns=listing.columns, name=str(folder))


def list_images(folder: Path, split: str = "train") -> Listing:
    """Return the images of `folder` in the order of their names.

    Classes are what metadata says, otherwise the folders.

    Raises:
        DataError: there are none, or no such split, or images both beside and inside the folders of classes; or not
            every image has a caption if some have one.
    """
    above, folder = folder, _split_folder(folder, split)
    direct = _images_in(folder)
    by_class = {sub.name: found for sub in _subfolders(folder) if (found := _images_in(sub))}
    if direct and by_class:
        raise DataError(
            f"{folder} holds images ({direct[0].name}) beside folders of images ({next(iter(by_class))}):"
            " move all of them into folders, one per class, or none"
        )
    if not direct and not by_class:
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise DataError(f"{folder} holds no images ({kinds}), nor do its subfolders: check the path")
    paths = direct or [path for found in by_class.values() for path in found]
    known = read_annotations(folder, paths, above)
    names = known.get(LABEL) or ([] if direct else [path.parent.name for path in paths])
    classes = {name: k for k, name in enumerate(sorted(set(names)))}
    labels = np.asarray([classes[name] for name in names]) if classes else None
    columns = {CAPTIONS: np.asarray(known[TEXT], object)} if TEXT in known else {}
    return Listing(paths, labels, tuple(classes), columns)


def count_channels(paths: list[Path]) -> int:
    """Return 1 if all of these images are grey, otherwise 3. Reads no more than their headers."""

    def is_grey(path: Path) -> bool:
        with opened(path) as image:
            return image.mode in GREY_MODES

    return 1 if all(map(is_grey, paths)) else 3


def decode_image(path: Path, channels: int, image_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Return one image, uint8 (H, W, channels) with 1 or 3 channels.

    Raises:
        DataError: the file is no image, is damaged, or has too many pixels; it is named.
    """
    with opened(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        converted = _to_eight_bits(image, "L" if channels == 1 else "RGB", path)
        pixels = np.asarray(converted if image_size is None else fit(converted, image_size))
    return pixels.reshape(*pixels.shape[:2], channels)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; what goes wrong inside the block is put down to the file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except Image.DecompressionBombError as cause:
        raise DataError(f"{path} is too large an image ({cause}): make it smaller") from cause
    except UnidentifiedImageError as cause:
        raise DataError(f"{path} is no image, whatever its name says: remove it, or save it anew") from cause
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        struct.error,
        zlib.error,
    ) as cause:
        raise DataError(f"{path} is a broken image ({cause}): remove it, or save it anew") from cause


def _to_eight_bits(image: Image.Image, mode: str, path: Path) -> Image.Image:
    if image.mode == "F":
        raise DataError(f"{path} has floating-point pixels: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"{path} has pixels outside 0 to 65535: save it with 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid)
    return image.convert(mode)


def _split_folder(folder: Path, split: str) -> Path:
    """Return the folder of `split`: a subfolder if subfolders are splits, or `folder` itself.

    Raises:
        DataError: there is no such split, there are two, or other folders of images are beside the splits.
    """
    holding = [sub for sub in _subfolders(folder) if _holds_images(sub)]
    splits = [sub for sub in holding if split_called(sub.name)]
    if not splits:
        require_split(split, ("train",), str(folder))
        return folder
    others = [sub.name for sub in holding if sub not in splits]
    if others:
        raise DataError(
            f"{folder} holds splits ({_some(sub.name for sub in splits)}) beside other folders of images"
            f" ({_some(others)}): move the others out of it, or rename what is a class and no split"
        )
    require_split(split, tuple(dict.fromkeys(str(split_called(sub.name)) for sub in splits)), str(folder))
    found = [sub for sub in splits if split_called(sub.name) == split]
    if len(found) > 1:
        raise DataError(f"{folder} holds the split {split!r} as {_some(sub.name for sub in found)}: keep one of them")
    return found[0]


def _some(names: Iterable[str]) -> str:
    """Return the first names of many."""
    names = list(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not _is_passed_over(p.name))


def _is_passed_over(folder: str) -> bool:
    """Whether a folder of this name is hidden, or what macOS adds to archives."""
    return folder.startswith(".") or folder == "__MACOSX"


def _holds_images(folder: Path) -> bool:
    """Whether there are images in `folder` or below. Links to folders below are not followed: they may lead back."""
    if _images_in(folder):
        return True
    return any(_holds_images(sub) for sub in _subfolders(folder) if not sub.is_symlink())


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
