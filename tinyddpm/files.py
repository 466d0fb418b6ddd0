"""Files as others give them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

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
