"""HDF5 files that are data, never code, and that are read completely or refused with one line.

HDF5 follows links into other files, reads raw bytes from any path that a dataset names, loads native plugins, and lets
a few bytes declare petabytes. So all objects of a file are checked before its data is read, and anything but a plain
numeric dataset is refused; before the header alone is read, the two datasets that hold it are. Files written here carry
a manifest with the SHA-256 of every array. The hashes detect accidents, not attackers: whoever can change the data can
change the hashes.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from tinyddpm.errors import TinyDDPMError
from tinyddpm.files import check_file

if TYPE_CHECKING:
    import h5py
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, Any]
    Datasets: TypeAlias = dict[str, h5py.Dataset]

PathLike: TypeAlias = str | os.PathLike[str]
Error: TypeAlias = type[TinyDDPMError]
Header: TypeAlias = dict[str, Any]
Expected: TypeAlias = Mapping[str, tuple[tuple[int, ...], str]]
"""The shape and the NumPy type string (such as "<f4") of each array by name."""

MANIFEST, MANIFEST_HASH = "manifest", "manifest_sha256"
MAX_DEPTH, MAX_OBJECTS, MAX_MANIFEST = 16, 20_000, 2**26
"""Limits of a file: levels of groups, number of objects, bytes of the manifest."""
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
"""The filters that a dataset may have, by HDF5's numbers."""
COMPRESSION = {1, 32000}
MAX_RATIO = 1032  # the largest compression ratio of deflate; LZF's is smaller
LIBVER = ("v110", "latest")
"""Oldest and newest format: from 1.10 on metadata have checksums; "latest" as the oldest would need the newest HDF5."""
H5PY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""Exceptions that h5py raises on a damaged file; RuntimeError also covers JSON that is nested too deeply."""


def import_h5py() -> ModuleType:
    """Return h5py, imported so that HDF5 loads no filter plugins: native code that reading a file would run."""
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
    import h5py

    return h5py  # type: ignore[no-any-return]


def listed(problems: Iterable[str], most: int = 5) -> str:
    """Return the first `most` problems and the number of the others, in one line."""
    problems = list(problems)
    rest = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "; ".join(problems[:most] + rest)


def misfits(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the differences between found and wanted arrays, shapes by name: other shapes, missing, surplus."""
    return [
        *(f"{name} is {_text(found[name])} and not {_text(shape)}" for name, shape in wanted.items()
          if name in found and found[name] != shape),
        *(f"{name} is missing" for name in wanted if name not in found),
        *(f"{name} is surplus" for name in found if name not in wanted),
    ]  # fmt: skip


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


@contextmanager
def reading(what: str, error: Error) -> Iterator[None]:
    """Raise `error` with the one line "`what` is damaged: ..." for every error of h5py inside the block."""
    try:
        yield
    except H5PY_ERRORS as cause:
        raise error(f"{what} is damaged: {_reason(cause)}; restore it from a copy") from cause


def open_file(path: PathLike, error: Error) -> h5py.File:
    """Return the HDF5 file at `path`, opened for reading. Nothing in it has been checked: see `checked_datasets`.

    Raises:
        error: the file does not exist, cannot be read, is not HDF5, or is truncated.
    """
    h5py = import_h5py()
    name = os.fspath(path)
    try:
        check_file(name)
        with open(name, "rb"):
            pass  # the system's message says better than HDF5's why it cannot be read
    except OSError as cause:
        raise error(f"cannot read {name}: {cause.strerror}") from cause
    if not h5py.is_hdf5(name):
        raise error(f"{name} is not an HDF5 file, or its beginning is damaged")
    with reading(name, error):
        return h5py.File(name, "r")


def checked_datasets(file: h5py.File, error: Error) -> Datasets:
    """Return every dataset of `file` by path, after checking that each is plain numbers stored in this very file.

    Only hard links are followed, each object once. No dataset may declare more bytes than it stores, times the largest
    ratio of its compression, nor all of them store more than the file's size: so this size limits the memory that
    reading takes.

    Raises:
        error: the file is refused, with all faults in one line.
    """
    found: Datasets = {}
    problems = []
    with reading(file.filename, error):
        for path, item in _walk(file):
            fault = item if isinstance(item, str) else _fault(item)
            if fault is None:
                found[path] = item
            else:
                problems.append(f"{path!r} {fault}")
        stored, size = sum(dataset.id.get_storage_size() for dataset in found.values()), file.id.get_filesize()
        if stored > size:
            problems.append(f"its datasets claim {stored} bytes of a file of {size}")
    if problems:
        raise error(f"{file.filename} is refused, for it may hold only plain numeric datasets: {listed(problems)}")
    return found


def write_file(path: PathLike, arrays: Mapping[str, Array], header: Header, error: Error) -> None:
    """Write named numeric `arrays` and a JSON `header` to `path`: completely, or not at all.

    The file is written beside its target, synced, read back, and renamed. Until then the old file stays as it was. The
    unfinished files of killed saves are removed first, so a path must have one writer at a time.

    Raises:
        error: the file cannot be written, or a value is NaN or infinite.
    """
    import numpy as np

    target = Path(os.path.realpath(path))
    broken = [f"{name!r} holds NaN or infinity" for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise error(f"cannot save {target}: {listed(broken)}")
    stored = _with_manifest(arrays, header)
    image = _image(stored)
    staged = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        for stale in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.tmp"):
            stale.unlink(missing_ok=True)
        with open(staged, "xb") as file:
            file.write(image)
            file.flush()
            os.fsync(file.fileno())
        _verify(staged, error, stored)
        os.replace(staged, target)
    except (OSError, error) as cause:
        raise error(f"cannot save {target}: {_reason(cause)}; what was there before is untouched") from cause
    finally:
        with suppress(OSError):  # after the rename it no longer exists
            staged.unlink()
    _sync_folder(target.parent)


def read_file(
    path: PathLike, error: Error, expected: Callable[[Header], Expected], skip: tuple[str, ...] = ()
) -> tuple[Header, dict[str, Array]]:
    """Return the header and the arrays of a file that `write_file` wrote, the arrays in the order of `expected`.

    Args:
        path: the file.
        error: the class of errors to raise.
        expected: function of the header that returns the expected arrays; called before any array is read.
        skip: prefixes of the names of arrays that must be there but are not read.

    Raises:
        error: the file is unreadable, foreign or damaged, its arrays are not those expected, or a value is NaN or
            infinite. All missing, surplus and misshapen arrays are reported together.
    """
    with open_file(path, error) as file:
        header, entries, datasets = _open_manifest(file, error)
        wanted = expected(header)
        _check_fit(path, error, wanted, datasets)
        chosen = {name: datasets[name] for name in wanted if not name.startswith(skip)}
        return header, dict(_read_arrays(path, error, chosen, entries))


def read_header(path: PathLike, error: Error) -> Header:
    """Return the header of a file that `write_file` wrote. Of its objects only those that hold it are looked at.

    Raises:
        error: the file is unreadable or foreign, or its manifest is damaged.
    """
    with open_file(path, error) as file:
        _refuse_foreign(file, error)
        with reading(file.filename, error):
            manifest, digest = _plain(file, MANIFEST), _plain(file, MANIFEST_HASH)
        return _manifest(file, manifest, digest, error)[0]


def read_outline(path: PathLike, error: Error) -> tuple[Header, dict[str, tuple[int, ...]]]:
    """Return the header of a file that `write_file` wrote, and the shapes of its arrays by name. No array is read.

    Raises:
        error: the file is unreadable or foreign, or its manifest is damaged.
    """
    with open_file(path, error) as file:
        header, _, datasets = _open_manifest(file, error)
        return header, {name: dataset.shape for name, dataset in datasets.items()}


def _reason(cause: Exception) -> str:
    """Return the reason of an error in one line. HDF5's messages have several, the reason in parentheses at the end."""
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno)
    text = " ".join(" ".join(map(str, cause.args)).split())
    inner = re.search(r"\((.+)\)$", text)
    return inner[1] if inner else text


def _walk(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Yield each path in `file` with its dataset, or with a text that says what is wrong with it."""
    h5py = import_h5py()
    root = file["/"].id
    seen = {h5py.h5o.get_info(root).addr}
    pending = [("", root)]
    while pending:
        prefix, group = pending.pop()
        links = group.links
        for name in group:
            path = prefix + name.decode("utf-8", "backslashreplace")
            if len(seen) > MAX_OBJECTS:
                yield path, f"is one object too many: there may be {MAX_OBJECTS}"
                return
            if links.get_info(name).type != h5py.h5l.TYPE_HARD:
                yield path, "is a soft or external link"
                continue
            item = h5py.h5o.get_info(group, name)
            if item.addr in seen:
                yield path, "is a second path to an object, perhaps a cycle"
            elif item.type == h5py.h5o.TYPE_DATASET:
                yield path, h5py.Dataset(h5py.h5d.open(group, name))
            elif item.type != h5py.h5o.TYPE_GROUP:
                yield path, "is a named type"
            elif path.count("/") + 1 >= MAX_DEPTH:
                yield path, f"is nested more than {MAX_DEPTH} deep"
            else:
                pending.append((f"{path}/", h5py.h5g.open(group, name)))
            seen.add(item.addr)


def _fault(dataset: h5py.Dataset) -> str | None:
    """Return what is wrong with `dataset`, None if nothing is. Reads none of its data and opens no other file."""
    h5d, layout = import_h5py().h5d, dataset.id.get_create_plist()
    if layout.get_external_count():
        return "keeps its data in another file"
    if layout.get_layout() == h5d.VIRTUAL:  # checked first: reading its shape would open other files
        return "is virtual: its data is in other files"
    filters = [layout.get_filter(i)[0] for i in range(layout.get_nfilters())]
    foreign = [number for number in filters if number not in FILTERS]
    if foreign or len(set(filters)) < len(filters):
        names = ", ".join(FILTERS.get(number, f"number {number}") for number in filters)
        return f"has filters {names}: there may be {', '.join(FILTERS.values())}, each once"
    try:
        kind = dataset.dtype
    except TypeError:
        return "is of a type that NumPy does not have"
    if kind.kind not in "biuf":
        return f"holds {kind} and not numbers"
    shape = dataset.shape
    if shape is None:
        return "has no shape"
    chunks = layout.get_chunk() if layout.get_layout() == h5d.CHUNKED else (1,) * len(shape)
    declared = dataset.id.get_type().get_size() * prod(-(-n // c) * c for n, c in zip(shape, chunks, strict=True))
    stored = dataset.id.get_storage_size()
    if declared > stored * (MAX_RATIO if COMPRESSION & set(filters) else 1):
        return f"declares {declared} bytes but stores {stored}"
    return None


def _entry(array: Array) -> dict[str, Any]:
    """Return the manifest's entry for `array`."""
    digest = hashlib.sha256(_bytes(array).data).hexdigest()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": digest}


def _with_manifest(arrays: Mapping[str, Array], header: Header) -> dict[str, Array]:
    """Return all datasets of a file: the arrays, the manifest that names them, and the manifest's hash."""
    import numpy as np

    entries = {name: _entry(array) for name, array in arrays.items()}
    manifest = json.dumps({"header": header, "arrays": entries}).encode()
    digest = hashlib.sha256(manifest).digest()
    own = {MANIFEST: np.frombuffer(manifest, np.uint8), MANIFEST_HASH: np.frombuffer(digest, np.uint8)}
    return {**arrays, **own}


def _image(stored: Mapping[str, Array]) -> bytes:
    """Return the bytes of the file. It is made in memory, for h5py crashes the process when a disk fills up.

    Datasets are made by HDF5's low-level functions: for hundreds of arrays h5py's take several times as long.
    """
    import numpy as np

    h5py = import_h5py()
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    with h5py.File("in memory", "w", driver="core", backing_store=False, libver=LIBVER) as file:
        for name, array in stored.items():
            array = np.asarray(array, order="C")
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_obj_track_times(False)
            if array.ndim > 0 and array.size > 0:  # the others have no chunks in HDF5, and so no checksum
                layout.set_chunk(array.shape)
                layout.set_fletcher32()
            links.set_char_encoding(h5py.h5t.CSET_ASCII if name.isascii() else h5py.h5t.CSET_UTF8)
            kind, space = h5py.h5t.py_create(array.dtype, logical=True), h5py.h5s.create_simple(array.shape)
            dataset = h5py.h5d.create(file.id, name.encode(), kind, space, layout, links)
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array)
        file.flush()
        return file.id.get_file_image()  # type: ignore[no-any-return]


def _verify(path: Path, error: Error, stored: Mapping[str, Array]) -> None:
    """Read a written file back, one array at a time, and compare every byte.

    Raises:
        error: the file cannot be read, or differs from `stored`.
    """
    h5py = import_h5py()
    with open_file(path, error) as file, reading(os.fspath(path), error):
        wrong = [
            name
            for name, array in stored.items()
            if not _is_same(h5py.h5d.open(file.id, name.encode()), array, h5py.h5s.ALL)
        ]
    if wrong:
        raise error(f"{path} is damaged: {listed(f'{name!r} is not what was written' for name in wrong)}")


def _is_same(dataset: h5py.h5d.DatasetID, array: Array, whole: h5py.h5s.SpaceID) -> bool:
    """Whether a dataset holds the bytes of an array; `whole` is HDF5's constant that selects all elements."""
    import numpy as np

    if dataset.shape != array.shape or dataset.dtype != array.dtype:
        return False
    found = np.empty(array.shape, array.dtype)
    dataset.read(whole, whole, found)
    return found.tobytes() == array.tobytes()


def _bytes(array: Array) -> Array:
    """Return the bytes of an array in C order, uint8 (n,)."""
    import numpy as np

    return np.asarray(array, order="C").reshape(-1).view(np.uint8)


def _sync_folder(folder: Path) -> None:
    """Sync `folder`, so that a rename in it survives a power cut; do nothing on file systems that cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_manifest(file: h5py.File, error: Error) -> tuple[Header, Any, Datasets]:
    """Return the header, the entry of each array, and the checked datasets of the arrays."""
    _refuse_foreign(file, error)
    datasets = checked_datasets(file, error)
    manifest, digest = datasets.pop(MANIFEST, None), datasets.pop(MANIFEST_HASH, None)
    return *_manifest(file, manifest, digest, error), datasets


def _refuse_foreign(file: h5py.File, error: Error) -> None:
    """Raise `error` for a file that `write_file` did not write."""
    with reading(file.filename, error):
        if file.get(MANIFEST, getlink=True) is None:
            raise error(f"{file.filename} was not written by tinyddpm: it has no {MANIFEST!r}")


def _plain(file: h5py.File, name: str) -> h5py.Dataset | None:
    """Return a dataset in the root of `file` if it is plain numbers stored in this very file, else None."""
    h5py = import_h5py()
    root, key = file["/"].id, name.encode()
    is_hard = key in root and root.links.get_info(key).type == h5py.h5l.TYPE_HARD
    if not is_hard or h5py.h5o.get_info(root, key).type != h5py.h5o.TYPE_DATASET:
        return None
    dataset = h5py.Dataset(h5py.h5d.open(root, key))
    return None if _fault(dataset) else dataset


def _manifest(
    file: h5py.File, manifest: h5py.Dataset | None, digest: h5py.Dataset | None, error: Error
) -> tuple[Header, Any]:
    """Return the header and the entry of each array, which these datasets hold."""
    name = file.filename
    if manifest is None or digest is None or manifest.nbytes > MAX_MANIFEST or digest.nbytes != 32:
        raise error(f"{name} was not written by tinyddpm, or its manifest is damaged")
    with reading(name, error):
        text = manifest[()].tobytes()
        if hashlib.sha256(text).digest() != digest[()].tobytes():
            raise error(f"{name} is damaged: its manifest has another hash than was written; restore it from a copy")
        content = json.loads(text)
        return dict(content["header"]), dict(content["arrays"])


def _check_fit(path: PathLike, error: Error, expected: Expected, datasets: Datasets) -> None:
    """Raise `error` with all differences of names, shapes and types from those expected."""
    problems = [f"{name!r} is missing" for name in expected if name not in datasets]
    for name, dataset in datasets.items():
        if name not in expected:
            problems.append(f"{name!r} is not expected")
        elif (dataset.shape, dataset.dtype.str) != expected[name]:
            shape, kind = expected[name]
            problems.append(f"{name!r} is {dataset.dtype.str} {dataset.shape} instead of {kind} {shape}")
    if problems:
        raise error(f"{os.fspath(path)} does not hold the arrays that its header calls for: {listed(problems)}")


def _read_arrays(
    path: PathLike, error: Error, datasets: Datasets, entries: dict[str, Any]
) -> Iterator[tuple[str, Array]]:
    """Yield each dataset's array; after the last, raise `error` with all that are not finite or not as written."""
    import numpy as np

    problems = []
    for name, dataset in datasets.items():
        try:
            array = np.asarray(dataset[()])
        except H5PY_ERRORS as cause:
            problems.append(f"{name!r} cannot be read ({_reason(cause)})")
            continue
        if _entry(array) != entries.get(name):
            problems.append(f"{name!r} is not what was written")
        elif not np.isfinite(array).all():
            problems.append(f"{name!r} holds NaN or infinity")
        yield name, array
    if problems:
        raise error(f"{os.fspath(path)} is damaged: {listed(problems)}; restore it from a copy")
