"""The lock of a run folder, held by the one run that writes there. Readers need no lock and never wait."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tinyddpm.errors import ConfigError, DataError
from tinyddpm.files import replacing

LOCK, HOLDER = ".lock", ".lock.json"
"""The locked file, and the file that says who holds the lock: on Windows a locked file cannot be read."""

UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""Error numbers of file systems without locks."""


@contextmanager
def held(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a run folder, which is created if missing. The system releases it when the process ends.

    Half-written files of a killed run are removed first.

    Args:
        folder: the run folder.
        say: called with one line where the file system has no locks.

    Raises:
        ConfigError: another run holds the lock.
        DataError: the folder cannot be written.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"{folder} is in use by {_holder(folder)}: wait until it ends, or take another folder"
        ) from error
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            raise DataError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from error
        say(f"note: {folder} cannot be locked ({error.strerror}): let no other run write there")
    try:
        for stale in (*folder.glob(".*.tmp"), *folder.glob("samples/.*.tmp")):
            stale.unlink(missing_ok=True)
        about = {
            "process": os.getpid(),
            "host": platform.node(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with replacing(folder / HOLDER) as file:
            file.write(json.dumps(about).encode())
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def in_folder(folder: Path) -> bool:
    """Return whether a folder contains anything but its lock."""
    return any(path.name not in (LOCK, HOLDER) for path in folder.iterdir())


def _holder(folder: Path) -> str:
    """Return a description of the lock's holder, as far as it is known."""
    try:
        about = json.loads((folder / HOLDER).read_bytes())
        return f"process {about['process']} on {about['host']}, since {about['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
