"""Checkpoints with changed headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyddpm.errors import CheckpointError
from tinyddpm.hdf5 import checked_datasets, import_h5py, read_outline, write_file
from tinyddpm.model.checkpoint import FORMAT


def rewritten(path: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy the checkpoint at `path` to `to`, with a changed header and valid hashes; return `to`."""
    header = read_outline(path, CheckpointError)[0]
    assert header["format"] == FORMAT
    with import_h5py().File(path) as file:
        arrays = {name: dataset[()] for name, dataset in checked_datasets(file, CheckpointError).items()}
    change(header)
    own = {"manifest", "manifest_sha256"}
    write_file(to, {name: array for name, array in arrays.items() if name not in own}, header, CheckpointError)
    return to
