"""Arrays by name in one file, `.safetensors` or `.npz`. Reading a file cannot run code from it.

The safetensors library validates the whole header, at most 100 MB, before it returns anything. Members of an `.npz` are
never unpickled. Shapes are compared before an array is read, so that no more is read than the model has parameters.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.lib import format as npy

from tinyddpm.data.arrays import DAMAGE, declared, read_member
from tinyddpm.errors import CheckpointError, ConfigError
from tinyddpm.files import check_file, replacing
from tinyddpm.hdf5 import listed, misfits

HostArray: TypeAlias = np.ndarray[Any, Any]
Arrays: TypeAlias = Mapping[str, HostArray]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

SAFETENSORS, NPZ = ".safetensors", ".npz"
SUFFIXES = (SAFETENSORS, NPZ)

TYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
"""The accepted types, by their names in safetensors."""

MOST_TOLD = 30
"""Most problems that an error lists."""


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array in a file, without reading the arrays.

    Raises:
        CheckpointError: the file is missing or damaged, or has arrays of other types than `TYPES`.
        ConfigError: the suffix is neither .safetensors nor .npz, or safetensors is not installed.
    """
    types = _safetensors_types(path) if _kind(path) == SAFETENSORS else _npz_types(path)
    wrong = [f"{name} ({kind})" for name, (_, kind) in types.items() if kind not in TYPES]
    if wrong:
        raise CheckpointError(
            f"{path} holds other types than F16, F32 and F64: {listed(wrong, MOST_TOLD)}: save it as float32"
        )
    return {name: shape for name, (shape, _) in types.items()}


def read_arrays(path: Path, shapes: Shapes) -> dict[str, HostArray]:
    """Return the arrays of a file as float32. Names and shapes must be exactly those of `shapes`.

    Raises:
        CheckpointError: the file cannot be read; or arrays are missing, surplus or of other shapes, which are listed.
        ConfigError: as `read_shapes`.
    """
    check_fit(path, read_shapes(path), shapes)
    if _kind(path) == SAFETENSORS:
        with _opened(path) as file:
            return {name: np.asarray(file.get_tensor(name), np.float32) for name in shapes}
    with _reading(path, DAMAGE), zipfile.ZipFile(path) as archive:
        return {name: np.asarray(read_member(archive, name, path), np.float32) for name in shapes}


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


ANOTHER = "give the file of a network with the same settings"
"""Advice if arrays do not fit."""


def check_fit(path: Path, found: Shapes, wanted: Shapes, advice: str = ANOTHER) -> None:
    """Check that the arrays of a file have exactly the names and shapes that are wanted.

    Raises:
        CheckpointError: arrays are missing, surplus or of other shapes. The line lists them, and ends with the advice.
    """
    wrong = misfits(found, wanted)
    if wrong:
        every = len(found.keys() | wanted.keys())
        raise CheckpointError(
            f"{path} does not fit, {len(wrong)} of {every} arrays differ: {listed(wrong, MOST_TOLD)}: {advice}"
        )


def write_arrays(path: Path, arrays: Arrays, metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays by name to a file as float32, atomically.

    Args:
        path: the file, whose suffix chooses the format.
        arrays: the arrays by name.
        metadata: texts for the header of a safetensors file; not stored in an `.npz`.

    Raises:
        ConfigError: the suffix is neither .safetensors nor .npz, or safetensors is not installed.
        DataError: the file cannot be written.
    """
    whole = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    if _kind(path) == SAFETENSORS:
        packed = safetensors().numpy.save(whole, dict(metadata or {}))
        with replacing(path) as file:
            file.write(packed)
        return
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in whole.items():
            with archive.open(f"{name}.npy", "w") as member:
                npy.write_array(member, array, allow_pickle=False)


def safetensors() -> ModuleType:
    """Return the module `safetensors`.

    Raises:
        ConfigError: safetensors is not installed.
    """
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as cause:
        raise ConfigError(
            "safetensors is not installed: run pip install 'tinyddpm[exchange]', or exchange .npz files"
        ) from cause
    return safetensors


def _kind(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path} has no suffix of a file of weights: give one that ends in {' or '.join(SUFFIXES)}")
    return path.suffix.lower()


def _safetensors_types(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (tuple(each.get_shape()), str(each.get_dtype())) for name, each in slices.items()}


def _npz_types(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    types = {}
    names = {np.dtype(kind): name for name, kind in TYPES.items()}
    with _reading(path, DAMAGE), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                shape, dtype = declared(stream)
            types[member.removesuffix(".npy")] = shape, names.get(dtype.newbyteorder("="), str(dtype))
    return types


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yield an open safetensors file; raise CheckpointError if it cannot be read."""
    module = safetensors()
    with _reading(path, (module.SafetensorError, OSError, ValueError)), module.safe_open(path, framework="np") as file:
        yield file


@contextmanager
def _reading(path: Path, damage: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn the exceptions `damage` inside the block into CheckpointErrors. Raise one if `path` is no regular file."""
    try:
        check_file(path)
        yield
    except damage as cause:
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else cause
        raise CheckpointError(f"{path} cannot be read as weights: {reason}; save it anew") from cause
