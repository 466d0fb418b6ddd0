"""A cache of decoded images in the user's cache folder: image files are decoded once, later mapped into memory.

    ~/.cache/tinyddpm/images/KEY.npy     the images, uint8 (n, H, W, C)
    ~/.cache/tinyddpm/images/KEY.json    frames and sizes of the files, and a hash of everything

The key is a hash of the files' paths, sizes and times, and of the options of reading. An entry is used only if its hash
is right. Each file is written as a whole or not at all. Processes may write the same key at once: they write the same.
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
"""Largest size of the cache in bytes. The least recently used images are removed first."""
WORTH = 1.0
"""Shortest decoding time in seconds for which images are cached."""
DECODING = 3
"""Version of decoding, part of the key. Raise it when the same files decode to other pixels."""


@dataclass(frozen=True)
class Decoded:
    """The images of decoded image files.

    Attributes:
        images: uint8 (n, H, W, C).
        frames: the number of images from each file.
        further: the number of frames in the files that were not taken.
        sizes: the distinct sizes (H, W) of the frames before resizing.
    """

    images: Samples
    frames: Sequence[int]
    further: int
    sizes: Sequence[Sequence[int]]

    def digest(self, key: str) -> str:
        """Return a hash of all attributes and of the key."""
        return digest(key, self.images, self.frames, self.further, self.sizes)


def cache_folder() -> Path | None:
    """Return the folder for decoded images, or None if the user has no cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(cache if os.path.isabs(cache) else os.path.expanduser("~/.cache"))
    return folder / "tinyddpm" / "images" if folder.is_absolute() else None


def through_cache(
    files: Sequence[Path], count: int, reading: Reading, decode: Callable[[], Decoded]
) -> tuple[Decoded, str]:
    """Return images from the cache; or decode them, and cache them if that took long.

    Images that cannot be written to the cache cause a warning.

    Args:
        files: the files that hold the images.
        count: the number of image files in them.
        reading: the options of reading, with whether to use the cache.
        decode: decodes the images.

    Returns:
        The images, and a note on the use of the cache, "" if it was not used.
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
    """Return the entry of a key; None if it is missing or damaged."""
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
    with suppress(OSError):  # the folder may be read-only
        os.utime(images)
    return found


def _write(folder: Path, key: str, found: Decoded) -> None:
    with replacing(folder / f"{key}.npy") as file:
        np.save(file, found.images, allow_pickle=False)
    said = {"frames": found.frames, "further": found.further, "sizes": found.sizes, "sha256": found.digest(key)}
    with replacing(folder / f"{key}.json") as file:
        file.write(json.dumps(said).encode())


def _make_room(folder: Path, size: int) -> None:
    """Remove the least recently used entries until `size` more bytes fit within the limit."""
    sweep(folder)
    kept = []
    for path in folder.glob("*.npy"):
        with suppress(OSError):  # another process has removed it
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
