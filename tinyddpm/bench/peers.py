"""Finding and importing the file of a peer."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import cast

import tinyddpm
from tinyddpm.bench.task import Peer
from tinyddpm.errors import BackendError, ConfigError

KNOWN = {"torch": "torch_peer.py"}
"""Files of the repository's own peers, in tests/peers."""


def find_peer(wanted: str) -> Path:
    """Return the file of a peer.

    Args:
        wanted: `torch`, or the path of a Python file with the functions of the protocol `Peer`.

    Raises:
        ConfigError: there is no such file, or the repository's tests are not beside this package.
    """
    if wanted not in KNOWN:
        path = Path(wanted)
        if path.suffix != ".py" or not path.is_file():
            raise ConfigError(f"peer {wanted!r} is neither {', '.join(map(repr, KNOWN))} nor a Python file")
        return path.resolve()
    path = Path(tinyddpm.__file__).parents[1] / "tests" / "peers" / KNOWN[wanted]
    if not path.is_file():
        raise ConfigError(
            f"the peer {wanted!r} is part of the repository's tests, not of the installed package: clone the "
            "repository, run pip install -e '.[test]' in it, and try again"
        )
    return path


def load_peer(path: Path) -> Peer:
    """Import and return the module of a peer's file.

    Raises:
        BackendError: the file cannot be imported, such as without a package that it needs.
        ConfigError: it does not define the functions of `Peer`.
    """
    spec = importlib.util.spec_from_file_location(f"tinyddpm_peer_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    try:
        spec.loader.exec_module(module)
    except Exception as cause:  # foreign code may raise anything
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        raise BackendError(
            f"the peer {path.name} cannot be imported ({reason}): if it lacks a package, install that; for the "
            "repository's own peers run pip install -e '.[test]'"
        ) from cause
    missing = [name for name in ("variants", "make") if not callable(getattr(module, name, None))]
    if missing:
        raise ConfigError(f"the peer {path.name} does not define {' and '.join(missing)}: see tinyddpm.bench.task.Peer")
    return cast(Peer, module)
