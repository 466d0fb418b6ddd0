"""Decoded images in the user's cache folder, so that image files are decoded once and mapped into memory after that.

    ~/.cache/tinyddpm/images/KEY.npy     the images, uint8 (n, H, W, C)
    ~/.cache/tinyddpm/images/KEY.json    what else was found in the files, and a hash of all of it

The key is a hash of the files' paths, sizes and times, and of how they are read. What is there is used only if its hash
is right. Both are written whole or not at all, and what several processes write at once under a key is the same.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from tinyddpm.data.arrays import DAMAGE, declared
from tinyddpm.data.base import Samples
from tinyddpm.data.image_files import Reading
from tinyddpm.errors import DataError, TinyDDPMWarning
from tinyddpm.files import check_file, replacing, sweep
from tinyddpm.kept import digest

LIMIT = 8 * 2**30
"""Bytes of images that are kept; those that were used longest ago go first."""
WORTH = 1.0
"""Seconds that decoding takes at least where images are kept."""
DECODING = 1
"""To be raised when image files are decoded to other pixels."""


@dataclass(frozen=True)
class Decoded:
    """Image files, decoded.

    Attributes:
        images: uint8 (n, H, W, C).
        frames: how many of them are of each file.
        further: how many more frames the files have.
        sizes: (H, W) of the frames, before they were brought to one.
    """

    images: Samples
    frames: Sequence[int]
    further: int
    sizes: Sequence[Sequence[int]]

    def digest(self, key: str) -> str:
        """Return the hash of all this under its key."""
        return digest(key, self.images, self.frames, self.further, self.sizes)


def cache_folder() -> Path | None:
    """Return the folder for decoded images; None where the user has no place for caches."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(cache if os.path.isabs(cache) else os.path.expanduser("~/.cache"))
    return folder / "tinyddpm" / "images" if folder.is_absolute() else None


def through_cache(
    files: Sequence[Path], count: int, reading: Reading, decode: Callable[[], Decoded]
) -> tuple[Decoded, str]:
    """Return images from the cache, or as `decode` returns them, which are then kept if that took long.

    What cannot be kept is a note.

    Args:
        files: what the images are in.
        count: how many image files there are in these.
        reading: how they are read, and whether there is to be a cache.
        decode: reads them.

    Returns:
        The images, and what is to be said of the cache, "" for nothing.
    """
    folder = cache_folder() if reading.cache else None
    if folder is None:
        return decode(), ""
    key = _key(files, reading)
    found = _read(folder, key)
    if found is not None and len(found.frames) == count:
        return found, f"decoded before, from {folder}"
    began = time.monotonic()
    found = decode()
    if time.monotonic() - began < WORTH or found.images.nbytes > LIMIT:
        return found, ""
    try:
        _make_room(folder, found.images.nbytes)
        _write(folder, key, found)
    except DataError as error:
        note = f"decoded images are not kept for the next start: {error}, or give --no-cache"
        warnings.warn(note, TinyDDPMWarning, stacklevel=2)
        return found, ""
    return found, f"decoded and kept in {folder}"


def _key(files: Sequence[Path], reading: Reading) -> str:
    how = [DECODING, PIL.__version__, reading.image_size, reading.background, reading.frames, reading.levels]
    stats = [(path, os.stat(path)) for path in files]
    return digest(how, [[os.path.abspath(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats])


def _read(folder: Path, key: str) -> Decoded | None:
    """Return what is kept under a key; None if nothing is, or it is damaged."""
    images, about = folder / f"{key}.npy", folder / f"{key}.json"
    try:
        for path in (images, about):
            check_file(path)
        said: Any = json.loads(about.read_bytes())
        with images.open("rb") as stream:
            declared(stream)
        pixels = np.load(images, mmap_mode="r", allow_pickle=False)
        found = Decoded(pixels, said["frames"], said["further"], said["sizes"])
        if found.digest(key) != said["sha256"]:
            return None
    except (*DAMAGE, LookupError):
        return None
    with suppress(OSError):  # of a folder that may only be read
        os.utime(images)
    return found


def _write(folder: Path, key: str, found: Decoded) -> None:
    with replacing(folder / f"{key}.npy") as file:
        np.save(file, found.images, allow_pickle=False)
    said = {"frames": found.frames, "further": found.further, "sizes": found.sizes, "sha256": found.digest(key)}
    with replacing(folder / f"{key}.json") as file:
        file.write(json.dumps(said).encode())


def _make_room(folder: Path, size: int) -> None:
    """Remove what was used longest ago, until so many bytes more are within the limit."""
    sweep(folder)
    kept = []
    for path in folder.glob("*.npy"):
        with suppress(OSError):  # somebody else has removed it
            stat = path.stat()
            kept.append((stat.st_mtime, path, stat.st_size))
    total = sum(each for *_, each in kept)
    for _, path, each in sorted(kept):
        if total + size <= LIMIT:
            break
        for part in (path.with_suffix(".json"), path):
            with suppress(OSError):
                part.unlink()
        total -= each
