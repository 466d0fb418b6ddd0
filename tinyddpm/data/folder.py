"""A folder of images, or of one subfolder per class.

    photos/1.jpg ...                  no classes
    photos/cat/1.jpg ...              classes are the names of the subfolders, in alphabetical order
    photos/train/cat/1.jpg ...        with splits, by any of their usual names (`splits.py`)

Files are read in the order of their names. Hidden files are ignored; other files that are not used cause a warning. If
all images are grey they have one channel, otherwise all become RGB (`image_files.py`). Captions, and classes that are
no folders, may lie beside the images (`captions.py`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data.base import CAPTIONS, ArrayDataset, Labels, Samples, check_memory, check_names, require_split
from tinyddpm.data.cache import Decoded, through_cache
from tinyddpm.data.captions import LABEL, TEXT, read_annotations
from tinyddpm.data.image_files import AS_IT_IS, SUFFIXES, BrokenImageError, ImageFiles, Reading, Sources, refuse_broken
from tinyddpm.data.resize import SMALLER, changes
from tinyddpm.data.splits import splits_among
from tinyddpm.errors import DataError, TinyDDPMWarning
from tinyddpm.files import is_file, is_folder
from tinyddpm.progress import Watch, unwatched

COMPANIONS = (
    ".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".ini", ".db", ".md", ".html", ".pdf",
    ".py", ".log", ".npy", ".npz",
)  # fmt: skip
"""Suffixes of files that commonly lie beside images, and cause no warning."""


ELSEWHERE, DEAD, STRANGE = "lie in other folders", "are links to nothing", "are of kinds that are not read"
"""The reasons why files are not used."""


@dataclass(frozen=True)
class Listing:
    """The images of a folder with their classes and columns, and the files that are left out.

    Attributes:
        images: the image files.
        files: the files that hold them: the same, or Parquet files.
        labels: the class of each image, or None.
        classes: the names of the classes.
        columns: further data of each image; see `Dataset`.
        left_out: the files that are not used, by the reason.
    """

    images: Sources
    files: Sequence[Path]
    labels: Labels | None
    classes: tuple[str, ...]
    columns: Mapping[str, Samples]
    left_out: Mapping[str, Sequence[Path]]


def open_folder(folder: Path, split: str, reading: Reading = AS_IT_IS) -> ArrayDataset:
    """Return the images in `folder`, decoded into memory or mapped from the cache.

    Args:
        folder: a folder of images, of classes, or of splits.
        split: "train" or another split; a folder without splits is a training set.
        reading: the options of reading. Without an image size, all images must have the same size.

    Raises:
        DataError: there are no images, one is broken, sizes differ, levels are uncertain, or the images exceed the
            memory limit.
    """
    return open_listing(folder, list_images(folder, split, reading.watch), reading)


def open_listing(folder: Path, listing: Listing, reading: Reading) -> ArrayDataset:
    """Return the images of a listing, decoded into memory or mapped from the cache; see `open_folder`."""
    try:
        found, origin = through_cache(
            listing.files, len(listing.images), reading, lambda: _decoded(folder, listing.images, reading)
        )
    except BrokenImageError:
        refuse_broken(listing.images)  # so that one message names all broken images
        raise
    _say_left_out(folder, len(found.images), listing, found.further)
    labels = None if listing.labels is None else np.repeat(listing.labels, found.frames)
    columns = {key: np.repeat(column, found.frames) for key, column in listing.columns.items()}
    dataset = ArrayDataset(found.images, labels, listing.classes, columns=columns, name=str(folder), origin=origin)
    changed = changes([(h, w) for h, w in found.sizes], reading.image_size) if reading.image_size else ""
    if changed:
        dataset.description += f", {changed}"
    return dataset


def _decoded(folder: Path, sources: Sources, reading: Reading) -> Decoded:
    files = ImageFiles(sources, reading)
    starts = np.concatenate([[0], np.cumsum(files.frames)])
    if reading.image_size:
        check_memory(int(starts[-1]) * prod(reading.image_size) * files.channels, str(folder), SMALLER)
    begin = files.read(0)
    first = begin[0]
    check_memory(int(starts[-1]) * first.size, str(folder))
    images = np.empty((starts[-1], *first.shape), np.uint8)
    images[: len(begin)] = begin

    # A task decodes several files if there are many, as handing out a task may take longer than decoding a small file.
    at_once = min(16, 1 + len(sources) // 64)

    def decode_into_place(begin: int) -> int:
        end = min(begin + at_once, len(sources))
        for i in range(begin, end):
            frames = files.read(i)
            if frames[0].shape != first.shape:
                raise DataError(
                    f"{sources[0]} is {_size(first)} and {sources[i]} is {_size(frames[0])}:"
                    " bring all images to one size with --image-size HxW"
                )
            images[starts[i] : starts[i + 1]] = frames
        return end

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done in pool.map(decode_into_place, range(1, len(sources), at_once)):
            reading.watch(done, len(sources), "images decoded")
    files.check_levels()
    return Decoded(images, files.frames, files.further, sorted(files.sizes))


def list_images(folder: Path, split: str = "train", watch: Watch = unwatched) -> Listing:
    """Return the images of `folder` in the order of their names, without decoding them.

    Classes come from metadata, or else from the folders. `watch` is called with the progress of reading captions.

    Raises:
        DataError: there are no images or no such split, images lie both beside and inside folders of classes, or only
            some images have captions.
    """
    above, below = folder, _split_folder(folder, split)
    if below is None:
        require_split(split, ("train",), str(folder))
    while below is not None:  # splits may lie in a folder that is called as one of them, as in train/train
        folder = below
        below = None if _images_in(folder) else _split_folder(folder, split)
    direct = _images_in(folder)
    by_class = {sub.name: found for sub in _subfolders(folder) if (found := _images_in(sub))}
    if direct and by_class:
        raise DataError(
            f"{folder} holds images ({direct[0].name}) beside folders of images ({next(iter(by_class))}):"
            " move all of them into folders, one per class, or none"
        )
    if not direct and not by_class:
        left_out = _left_out(folder, above, [])
        if left_out[ELSEWHERE]:
            raise DataError(
                f"{folder} holds images only deeper, such as {left_out[ELSEWHERE][0]}: give the folder of their classes"
            )
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        such = [
            f"{len(found)} {reason} ({found[0].relative_to(folder)})" for reason, found in left_out.items() if found
        ]
        but = f"; {' and '.join(such)}" if such else ""
        raise DataError(f"{folder} holds no images ({kinds}), nor do its subfolders{but}: check the path")
    paths = direct or [path for found in by_class.values() for path in found]
    known = read_annotations(folder, paths, above, watch)
    names = known.get(LABEL) or ([] if direct else [path.parent.name for path in paths])
    check_names(dict.fromkeys(names), str(folder))
    classes = {name: k for k, name in enumerate(sorted(set(names)))}
    labels = np.asarray([classes[name] for name in names]) if classes else None
    columns = {CAPTIONS: np.asarray(known[TEXT], object)} if TEXT in known else {}
    return Listing(paths, paths, labels, tuple(classes), columns, _left_out(folder, above, paths))


def _left_out(folder: Path, above: Path, used: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the images that are not used, and the files that may be images of an unsupported kind, by the reason.

    Both are searched for in `folder` and below. If `folder` is a split of `above`, images directly in `above` count as
    not used too.
    """
    taken = {str(path) for path in used}
    found: dict[str, list[Path]] = {ELSEWHERE: _images_in(above) if above != folder else [], DEAD: [], STRANGE: []}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_passed_over(name))
        for name in sorted(names):
            path, (stem, suffix) = os.path.join(place, name), os.path.splitext(name)
            if _is_called_image(name) and path not in taken:
                if os.path.isfile(path):
                    found[ELSEWHERE].append(Path(path))
                elif os.path.islink(path):
                    found[DEAD].append(Path(path))
            elif not (name.startswith(".") or suffix.lower() in SUFFIXES + COMPANIONS or _is_notice(stem, suffix)):
                found[STRANGE] += [Path(path)] if os.path.isfile(path) else []
    return found


def _is_notice(stem: str, suffix: str) -> bool:
    """Whether a file is called as texts beside data are, such as LICENSE or CHECKSUMS."""
    return stem.isupper() and not suffix


def _say_left_out(folder: Path, used: int, listing: Listing, further: int) -> None:
    """Warn, in one line, of images and files that are not used, and why."""
    reasons = []
    for reason, paths in listing.left_out.items():
        if paths:
            names = some(path.relative_to(folder).as_posix() for path in paths)
            reasons.append(f"{len(paths)} {reason} ({names})")
    if further:
        reasons.append(f"{further} are further frames of a file, which --frames all takes")
    if reasons:
        total = used + sum(map(len, listing.left_out.values())) + further
        warnings.warn(
            f"{folder}: {used} of {total} images are used; {'; '.join(reasons)}", TinyDDPMWarning, stacklevel=2
        )


def _split_folder(folder: Path, split: str) -> Path | None:
    """Return the subfolder of `split` if subfolders are named after splits, else None.

    Raises:
        DataError: the split does not exist or exists twice, or other folders of images lie beside the splits.
    """
    subfolders = _subfolders(folder)
    called = splits_among(sub.name for sub in subfolders)
    holding = [sub for sub in subfolders if holds_images(sub)] if called else []
    splits = [sub for sub in holding if sub.name in called]
    if not splits:
        return None
    others = [sub.name for sub in holding if sub not in splits]
    if others:
        raise DataError(
            f"{folder} holds splits ({some(sub.name for sub in splits)}) beside other folders of images"
            f" ({some(others)}): move the others out of it, or rename what is a class and no split"
        )
    require_split(split, tuple(dict.fromkeys(called[sub.name] for sub in splits)), str(folder))
    found = [sub for sub in splits if called[sub.name] == split]
    if len(found) > 1:
        raise DataError(f"{folder} holds the split {split!r} as {some(sub.name for sub in found)}: keep one of them")
    return found[0]


def some(names: Iterable[str]) -> str:
    """Return the first three names, joined by commas, with "…" if there are more."""
    names = list(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:  # which tells folders from files without a system call for each
        return sorted(folder / entry.name for entry in entries if is_folder(entry) and not is_passed_over(entry.name))


def is_passed_over(folder: str) -> bool:
    """Whether a folder of this name is hidden, or one that macOS adds to archives."""
    return folder.startswith(".") or folder == "__MACOSX"


def holds_images(folder: Path) -> bool:
    """Whether there are images in `folder` or below. Symbolic links below are not followed, as they may form a loop."""
    if _images_in(folder):
        return True
    return any(holds_images(sub) for sub in _subfolders(folder) if not sub.is_symlink())


def _images_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _is_called_image(entry.name) and is_file(entry)]
    return [folder / name for name in sorted(names)]


def _is_called_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
