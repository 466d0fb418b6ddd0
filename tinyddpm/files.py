"""Files: as others give them, and as they are written, whole or not there at all."""

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
"""Seconds after which nobody writes a file any more."""

KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is no file but lies in a folder like one: whoever reads a pipe or a terminal may wait for ever.

    Raises:
        OSError: there is nothing, or it is a pipe, a socket or a device. What else cannot be read is left to whoever
            opens it.
    """
    kind = KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    if kind:
        raise OSError(errno.EINVAL, f"it is {kind} and no file", os.fspath(path))


def unused(base: Path, suffix: str = "") -> Path:
    """Return the first of `base`, `base`-2, `base`-3, … that, with the suffix, does not exist."""
    path, number = base.with_name(base.name + suffix), 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}{suffix}")
    return path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends well, and is removed when it does not.

    It is written in the folder of `path`, for only there is a rename one step. Missing folders are made.

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
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"cannot write {target}: {why}; make room, or choose another place") from error
    finally:
        with suppress(OSError):  # it is no longer there when all went well
            staged.unlink()


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written in a folder and below it: what is older than a day."""
    for staged in folder.rglob(".*.tmp"):
        with suppress(OSError):  # somebody else sweeps too
            if time.time() - staged.stat().st_mtime > DAY:
                staged.unlink()
