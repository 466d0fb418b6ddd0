"""The published Inception weights of the Fréchet inception distance: find, verify, read and fold them."""

from __future__ import annotations

import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import CheckpointError
from tinyddpm.metrics.inception_network import CLASSES, FEATURES, NETWORK
from tinyddpm.metrics.published import NORM, State, fold, read_torch, require_hash

FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
"""Names of the file in pytorch-fid and in torch-fidelity. The contents are the same."""

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""SHA-256 of that file."""

WHERE = "https://github.com/mseitzer/pytorch-fid/releases"

ANOTHER = f"give {FILES[0]}, or the option sha256 with the hash of this file if it is meant"
"""Advice for a file with another hash."""

SOURCE = "sha256"
"""Key in an `.npz` of the SHA-256 of the `.pth` that it was converted from."""

LOGITS = "fc"

DAMAGE = (
    OSError, ValueError, TypeError, AttributeError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""Exceptions of Torch, NumPy and zipfile for files that are damaged or hold something else."""


def find_weights(given: str) -> Path:
    """Return the path `given`, or if it is "" that of the weights in Torch's cache of downloads.

    Raises:
        CheckpointError: there is no such file.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    folder = Path(os.environ.get("TORCH_HOME") or cache, "hub", "checkpoints").expanduser()
    paths = [Path(given).expanduser()] if given else [folder / name for name in FILES]
    for path in paths:
        if path.is_file():
            return path
    raise CheckpointError(
        f"no weights of Inception at {paths[0]}: give --weights {FILES[0]}, a file available at {WHERE}, "
        f"or put it into {folder}"
    )


def read_weights(path: Path, sha256: str = SHA256) -> State:
    """Return the arrays in a file of weights. It is read as data: no code in it is run.

    Args:
        path: the published `.pth`, for which Torch must be installed, or the `.npz` that `save_weights` wrote.
        sha256: first digits of the SHA-256 of the `.pth`.

    Raises:
        CheckpointError: the hash differs, the file is damaged, or Torch is not installed.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                state = dict(file)
            require_hash(path, str(state.pop(SOURCE, "unknown")), sha256, ANOTHER)
            return state
        return read_torch(path, sha256, ANOTHER)
    except ImportError as cause:
        raise CheckpointError(
            f"{path} is read by Torch, which is not installed: run pip install 'tinyddpm[torch]', or give the .npz "
            "that examples/convert_inception.py makes of it"
        ) from cause
    except DAMAGE as cause:
        reason = " ".join(str(cause).split())
        raise CheckpointError(f"{path} cannot be read as weights ({reason}): give {FILES[0]}") from cause


def save_weights(path: Path, state: State, sha256: str) -> None:
    """Write arrays to an `.npz`, with the SHA-256 of the `.pth` that they come from."""
    arrays: dict[str, Any] = {**state, SOURCE: np.asarray(sha256)}
    np.savez(path, **arrays)


def folded(state: State) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return weights and bias of each unit by its path, and of the classifier under `LOGITS`, whose bias is zero.

    Raises:
        CheckpointError: an array is missing, has another shape, or is not finite.
    """
    found = {}
    for unit in NETWORK.units():
        kernel = _array(state, f"{unit.path}.conv.weight", (unit.c_out, unit.c_in, *unit.kernel))
        w, b = fold(kernel, (_array(state, f"{unit.path}.bn.{name}", (unit.c_out,)) for name in NORM))
        found[unit.path] = w.reshape(unit.shape), b
    found[LOGITS] = _array(state, f"{LOGITS}.weight", (CLASSES, FEATURES)).T, np.zeros(CLASSES)
    return found


def _array(state: State, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return an array in float64; raise CheckpointError if it is missing, of another shape, or not finite."""
    array = state.get(name, np.empty(0))
    if array.shape != shape or not np.isfinite(array).all():
        what = "not there" if name not in state else "not finite" if array.shape == shape else f"of shape {array.shape}"
        raise CheckpointError(f"these are no weights of Inception: {name}, {shape}, is {what}: give {FILES[0]}")
    return array.astype(np.float64)
