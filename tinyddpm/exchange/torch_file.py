"""Files saved by Torch, read as data: no code that is pickled in them is run."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tinyddpm.errors import CheckpointError, ConfigError
from tinyddpm.exchange.arrays import HostArray, Shapes, check_fit
from tinyddpm.files import check_file

PT = ".pt"

Tensors: TypeAlias = Mapping[str, Any]

DAMAGE = (
    OSError, ValueError, TypeError, AttributeError, LookupError, EOFError, RuntimeError, AssertionError, MemoryError,
    OverflowError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
"""Exceptions of Torch for files that are damaged or contain more than data."""


def open_tensors(path: Path) -> Tensors:
    """Return the tensors of a file by name. They are memory-mapped, except in files from before 2020.

    Raises:
        CheckpointError: the file cannot be read, or contains anything but floating-point tensors by name.
        ConfigError: Torch is not installed.
    """
    try:
        import torch
    except ImportError as cause:
        raise ConfigError(f"{path} is read by Torch: run pip install 'tinyddpm[torch]'") from cause
    state: Tensors
    try:
        check_file(path)
        mapped = zipfile.is_zipfile(path)
        if mapped:
            _refuse_compressed(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except DAMAGE as cause:
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else _first_sentence(cause)
        raise CheckpointError(
            f"{path} cannot be read as weights: {reason}; give the file as it was published"
        ) from cause
    wrong = not isinstance(state, Mapping) or not all(
        isinstance(name, str)
        and isinstance(tensor, torch.Tensor)
        and tensor.is_floating_point()
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        for name, tensor in state.items()
    )
    if wrong:
        raise CheckpointError(f"{path} contains more than floating-point arrays by name: give the weights of a model")
    return state


def read_tensors(path: Path, tensors: Tensors, shapes: Shapes, advice: str) -> dict[str, HostArray]:
    """Return tensors as float32 arrays. Names and shapes must be exactly those of `shapes`.

    Args:
        path: the file of the tensors.
        tensors: as returned by `open_tensors`.
        shapes: the shape of each array by name.
        advice: end of the error's line: what to do if they differ.

    Raises:
        CheckpointError: tensors are missing, surplus or of other shapes, which are listed.
    """
    check_fit(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, shapes, advice)
    return {name: tensors[name].detach().float().numpy() for name in shapes}


def _refuse_compressed(path: Path) -> None:
    """Raise ValueError if a file is compressed: Torch writes no such files, and they may expand without limit."""
    with zipfile.ZipFile(path) as archive:
        if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
            raise ValueError("it is compressed, as files of Torch are not")


def _first_sentence(cause: Exception) -> str:
    """Return the first sentence of an error: after it, Torch suggests how to circumvent the refusal."""
    return " ".join(str(cause).split()).partition(". ")[0] or type(cause).__name__
