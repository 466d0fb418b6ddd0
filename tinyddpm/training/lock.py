"""The lock of a run folder: one run at a time writes there. Readers need none, and never wait."""

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
"""What is locked, and who holds it: on Windows what is locked cannot be read."""

UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What file systems without locks answer."""


@contextmanager
def held(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a run folder, which is made if it is not there; the system lets go of it with the process.

    Files that a killed run left half written are removed first.

    Args:
        folder: the run's.
        say: called with one line where the file system has no locks.

    Raises:
        ConfigError: another run holds it.
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
    """Return whether there is anything in a folder but its lock."""
    return any(path.name not in (LOCK, HOLDER) for path in folder.iterdir())


def _holder(folder: Path) -> str:
    """Return who holds the lock, as far as it is known."""
    try:
        about = json.loads((folder / HOLDER).read_bytes())
        return f"process {about['process']} on {about['host']}, since {about['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
