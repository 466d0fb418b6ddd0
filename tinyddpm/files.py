"""Files: which ones may be opened for reading, and how they are written, completely or not at all."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tinyddpm.errors import DataError

DAY = 24 * 60 * 60.0
"""Seconds after which an unfinished file is taken to be abandoned."""

KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def check_file(path: str | os.PathLike[str]) -> None:
    """Check that a path is no pipe, socket or device: reading these may wait for ever.

    Raises:
        OSError: nothing has this path, or it is a pipe, a socket or a device. Other paths that cannot be read, such as
            folders, raise when they are opened.
    """
    kind = KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    if kind:
        raise OSError(errno.EINVAL, f"it is {kind} and no file", os.fspath(path))


def check_folder(folder: Path) -> None:
    """Check before a long computation that its files can be written into a folder, which need not exist.

    Raises:
        DataError: it, or else the nearest one above it that exists, is a file or read-only.
    """
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        what = "read-only" if there.is_dir() else "no folder"
        raise DataError(f"cannot write into {folder}: {there} is {what}; choose another place")


def check_target(path: Path) -> None:
    """Check before a long computation that a file can be written at a path. It raises like `check_folder`."""
    if path.is_dir():
        raise DataError(f"cannot write {path}: it is a folder; choose another place")
    check_folder(path.parent)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; False for a link that leads round in a circle."""
    return os.path.isdir(entry) if entry.is_symlink() else entry.is_dir()


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a file or a link to one; False for a link that leads round in a circle."""
    return os.path.isfile(entry) if entry.is_symlink() else entry.is_file()


def unused(base: Path, suffix: str = "") -> Path:
    """Return the first of `base`, `base`-2, `base`-3, … that, with the suffix, does not exist."""
    path, number = base.with_name(base.name + suffix), 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}{suffix}")
    return path


@contextmanager
def claimed(base: Path) -> Iterator[Path]:
    """Make the first of the folders `unused` names, which no other process then takes; remove it if it stays empty.

    Raises:
        DataError: it cannot be made.
    """
    while True:
        folder = unused(base)
        check_folder(folder)
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:  # another process has just made it
            continue
    try:
        yield folder
    finally:
        with suppress(OSError):  # it is not empty
            folder.rmdir()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` when the block ends, or is removed when the block raises.

    It is written in the folder of `path`, since a rename is atomic only within a file system. Missing folders are made.

    Raises:
        DataError: the folder or the file cannot be written.
    """
    target = Path(path)
    staged = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(staged, "xb") as file:
            yield file
        os.replace(staged, target)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"cannot write {target}: {target.parent} is no folder; choose another place") from error
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"cannot write {target}: {why}; make room, or choose another place") from error
    finally:
        with suppress(OSError):  # after the rename it no longer exists
            staged.unlink()


def sweep(folder: Path) -> None:
    """Remove the unfinished files that killed processes left in a folder and below it, if older than a day."""
    for staged in folder.rglob(".*.tmp"):
        with suppress(OSError):  # another process may have removed it
            if time.time() - staged.stat().st_mtime > DAY:
                staged.unlink()
