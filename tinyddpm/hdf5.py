"""HDF5 as a format to trust: files that are data, never code, and that are read in full or refused with one line.

HDF5 follows links into other files, reads raw bytes from any path a dataset names, loads native plugins, and lets a few
bytes declare petabytes. So a file is walked before its data is read, and whatever is not a plain numeric dataset is
refused. Files written here carry a manifest with the SHA-256 of every array. The hashes detect accidents, not
attackers: whoever can change the data can change the hashes.
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
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
COMPRESSION = {1, 32000}
MAX_RATIO = 1032  # the most that deflate can do, and more than LZF can
# Checksummed metadata, that HDF5 1.10 and later can read; a plain "latest" would shut out all releases but the newest.
LIBVER = ("v110", "latest")
H5PY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""What h5py raises on a damaged file. JSON nested too deeply is a RuntimeError as well."""


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
    """Return how arrays by name are not those that are wanted: of other shapes, missing, surplus."""
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
    """Turn every error of h5py inside the block into the one line "`what` is damaged: ..."."""
    try:
        yield
    except H5PY_ERRORS as cause:
        raise error(f"{what} is damaged: {_reason(cause)}; restore it from a copy") from cause


def open_file(path: PathLike, error: Error) -> h5py.File:
    """Return the HDF5 file at `path`, opened for reading. Nothing in it has been checked: see `checked_datasets`.

    Raises:
        error: there is no such file, it cannot be read, is not HDF5, or is truncated.
    """
    h5py = import_h5py()
    name = os.fspath(path)
    try:
        check_file(name)
        with open(name, "rb"):
            pass  # the system says better than HDF5 why it cannot
    except OSError as cause:
        raise error(f"cannot read {name}: {cause.strerror}") from cause
    if not h5py.is_hdf5(name):
        raise error(f"{name} is not an HDF5 file, or its beginning is damaged")
    with reading(name, error):
        return h5py.File(name, "r")


def checked_datasets(file: h5py.File, error: Error) -> Datasets:
    """Return every dataset of `file` by path, after checking that each is plain numbers stored in this very file.

    Only hard links are followed, each object once. No dataset may declare more than it stores (times the most that its
    compression can do), nor all of them store more than the file holds: so the file's size bounds what reading takes.

    Raises:
        error: everything that is wrong with the file, in one line.
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
    """Write named numeric `arrays` and a JSON `header` to `path`: wholly, or not at all.

    The file is staged beside its target, synced, read back, and renamed. Until then the old file stays as it was. What
    an earlier save left when it was killed is removed first, so a path must have one writer at a time.

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
        with suppress(OSError):  # it is gone when all went well
            staged.unlink()
    _sync_folder(target.parent)


def read_file(
    path: PathLike, error: Error, expected: Callable[[Header], Expected], skip: tuple[str, ...] = ()
) -> tuple[Header, dict[str, Array]]:
    """Return the header and the arrays of a file that `write_file` wrote, the arrays in the order of `expected`.

    Args:
        path: the file.
        error: what to raise.
        expected: tells from the header which arrays there must be; called before any array is read.
        skip: prefixes of names that are checked for but not read.

    Raises:
        error: the file is unreadable, foreign or damaged, its arrays are not those expected, or a value is NaN or
            infinite. Missing, superfluous and misshapen arrays are reported at once.
    """
    with open_file(path, error) as file:
        header, entries, datasets = _open_manifest(file, error)
        wanted = expected(header)
        _check_fit(path, error, wanted, datasets)
        chosen = {name: datasets[name] for name in wanted if not name.startswith(skip)}
        return header, dict(_read_arrays(path, error, chosen, entries))


def read_header(path: PathLike, error: Error) -> Header:
    """Return the header of a file that `write_file` wrote, and read no array; see `read_outline`."""
    return read_outline(path, error)[0]


def read_outline(path: PathLike, error: Error) -> tuple[Header, dict[str, tuple[int, ...]]]:
    """Return the header of a file that `write_file` wrote, and the shapes of its arrays by name. No array is read.

    Raises:
        error: the file is unreadable or foreign, or its manifest is damaged.
    """
    with open_file(path, error) as file:
        header, _, datasets = _open_manifest(file, error)
        return header, {name: dataset.shape for name, dataset in datasets.items()}


def _reason(cause: Exception) -> str:
    """Return why, in one line. HDF5's messages span several; what matters of them stands in parentheses at the end."""
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno)
    text = " ".join(" ".join(map(str, cause.args)).split())
    inner = re.search(r"\((.+)\)$", text)
    return inner[1] if inner else text


def _walk(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Yield each path in `file` with the dataset there, or with the text of what is wrong with it."""
    h5py = import_h5py()
    root = file["/"].id
    seen = {h5py.h5o.get_info(root).addr}
    pending = [("", root)]
    while pending:
        prefix, group = pending.pop()
        for name in group:
            path = prefix + name.decode("utf-8", "backslashreplace")
            if len(seen) > MAX_OBJECTS:
                yield path, f"is one object too many: there may be {MAX_OBJECTS}"
                return
            if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                yield path, "is a soft or external link"
                continue
            item = h5py.h5o.open(group, name)
            address = h5py.h5o.get_info(item).addr
            if address in seen:
                yield path, "is a second path to an object, perhaps a cycle"
            elif isinstance(item, h5py.h5d.DatasetID):
                yield path, h5py.Dataset(item)
            elif not isinstance(item, h5py.h5g.GroupID):
                yield path, "is a named type"
            elif path.count("/") + 1 >= MAX_DEPTH:
                yield path, f"is nested more than {MAX_DEPTH} deep"
            else:
                pending.append((f"{path}/", item))
            seen.add(address)


def _fault(dataset: h5py.Dataset) -> str | None:
    """Return what is wrong with `dataset`, if anything. Reads none of its data and opens no other file."""
    layout = dataset.id.get_create_plist()
    if layout.get_external_count():
        return "keeps its data in another file"
    if layout.get_layout() == import_h5py().h5d.VIRTUAL:  # asked first: already the shape would open the source files
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
    if dataset.shape is None:
        return "has no shape"
    chunks = dataset.chunks or (1,) * dataset.ndim
    declared = dataset.id.get_type().get_size() * prod(
        -(-n // c) * c for n, c in zip(dataset.shape, chunks, strict=True)
    )
    stored = dataset.id.get_storage_size()
    if declared > stored * (MAX_RATIO if COMPRESSION & set(filters) else 1):
        return f"declares {declared} bytes but stores {stored}"
    return None


def _entry(array: Array) -> dict[str, Any]:
    """Return the manifest's entry for `array`."""
    digest = hashlib.sha256(_bytes(array).data).hexdigest()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": digest}


def _with_manifest(arrays: Mapping[str, Array], header: Header) -> dict[str, Array]:
    """Return what a file is to hold: the arrays, the manifest that names them, and its hash."""
    import numpy as np

    entries = {name: _entry(array) for name, array in arrays.items()}
    manifest = json.dumps({"header": header, "arrays": entries}).encode()
    digest = hashlib.sha256(manifest).digest()
    own = {MANIFEST: np.frombuffer(manifest, np.uint8), MANIFEST_HASH: np.frombuffer(digest, np.uint8)}
    return {**arrays, **own}


def _image(stored: Mapping[str, Array]) -> bytes:
    """Return the file to write, made in memory: h5py crashes the process when it writes to a disk that fills up.

    Datasets are made by HDF5's own functions: h5py's take several times as long, and there are hundreds.
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
            if array.ndim > 0 and array.size > 0:  # HDF5 has no chunks, so no checksum, for the others
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
        error: it cannot be read, or is not what was to be written.
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
    """Whether a dataset holds the bytes of an array; `whole` is HDF5's word for all of both."""
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
    """Make a rename in `folder` outlast a power cut, on file systems that can: the others are no worse off."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_manifest(file: h5py.File, error: Error) -> tuple[Header, Any, Datasets]:
    """Return the header, the entry of each array, and the checked datasets of the arrays."""
    name = file.filename
    with reading(name, error):
        if file.get(MANIFEST, getlink=True) is None:
            raise error(f"{name} was not written by tinyddpm: it has no {MANIFEST!r}")
    datasets = checked_datasets(file, error)
    manifest, digest = datasets.pop(MANIFEST, None), datasets.pop(MANIFEST_HASH, None)
    if manifest is None or digest is None or manifest.nbytes > MAX_MANIFEST or digest.nbytes != 32:
        raise error(f"{name} was not written by tinyddpm, or its manifest is damaged")
    with reading(name, error):
        text = manifest[()].tobytes()
        if hashlib.sha256(text).digest() != digest[()].tobytes():
            raise error(f"{name} is damaged: its manifest has another hash than was written; restore it from a copy")
        content = json.loads(text)
        return dict(content["header"]), dict(content["arrays"]), datasets


def _check_fit(path: PathLike, error: Error, expected: Expected, datasets: Datasets) -> None:
    """Compare names, shapes and types with those expected, and report all differences at once."""
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
    """Yield each dataset's array after checking it; after the last, report all that are not what was written."""
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
