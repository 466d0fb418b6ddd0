"""Files that are whole or not there at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tinyddpm.errors import DataError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends well, and is removed when it does not.

    It is written in the folder of `path`, for only there is a rename one step. Missing folders are made.

    Raises:
        DataError: the folder or the file cannot be written.
    """
    target = Path(path)
    staged = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(staged, "xb") as file:
            yield file
        os.replace(staged, target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}; choose another place") from error
    finally:
        with suppress(OSError):  # it is no longer there when all went well
            staged.unlink()
