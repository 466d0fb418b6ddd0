"""Images in Parquet files, in the form of Hugging Face's data sets.

    photos/data/train-00000-of-00002.parquet    the split is in the name of the file,
    photos/train/0000.parquet                   or of its folder, by any of its usual names (`splits.py`)

Each row has the bytes of an image file, alone or in a struct {bytes, path}, in a column `image` or `img`, or in the
only column of such structs. Optional columns are the class, `label`, `labels` or `fine_label`, and the caption, `text`
or `caption`. The schema may have the names of the classes. Rows are read a row group at a time; images are read once
for their headers and once for decoding (`image_files.py`).
"""

from __future__ import annotations

import json
import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyddpm.data.base import CAPTIONS, ArrayDataset, Samples, check_memory, checked_labels, require_split
from tinyddpm.data.captions import LABEL, TEXT
from tinyddpm.data.folder import Listing, is_passed_over, open_listing, some
from tinyddpm.data.image_files import Encoded, Reading
from tinyddpm.data.keys import known
from tinyddpm.data.splits import split_called
from tinyddpm.errors import DataError, TinyDDPMWarning
from tinyddpm.files import check_file

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

SUFFIX = ".parquet"
IMAGES, LABELS, TEXTS = ("image", "img"), (LABEL, "labels", "fine_label"), (TEXT, "caption")
"""Names of the columns of images, labels and captions, the preferred one first."""
GROUPS = 3
"""Number of row groups of images held in memory: parallel threads may decode rows of neighbouring groups."""
AT_ONCE = 256
"""Number of rows unpacked at a time."""


def find_parquet(folder: Path) -> list[Path]:
    """Return the paths of the Parquet files in `folder` and below, without hidden ones, in order."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_passed_over(name)]
        found += [Path(place, name) for name in names if name.lower().endswith(SUFFIX) and not name.startswith(".")]
    return sorted(found)


def open_parquet(path: Path, files: Sequence[Path], split: str, reading: Reading) -> ArrayDataset:
    """Return the images in Parquet files, decoded into memory or mapped from the cache.

    Args:
        path: the folder of the files, or the only file.
        files: all Parquet files in it.
        split: the split to read.
        reading: the options of reading. Without an image size, all images must have the same size.

    Raises:
        DataError: pyarrow is not installed; files are damaged, belong to several data sets, or lack the split or a
            column of images; or images cannot be read, see `open_folder`.
    """
    splits = _splits(path, files)
    require_split(split, tuple(splits), str(path))
    here = [_Table(file) for file in splits[split]]
    image, label, text = here[0].columns
    others = [_Table(file) for name, files in splits.items() if name != split for file in files] if label else []
    others = [table for table in others if table.columns[1] == label]
    if len({table.columns for table in here}) > 1 or len({table.classes for table in here + others}) > 1:
        raise DataError(
            f"{path}: its files have other columns or classes each: give the folder of those that belong together"
        )
    _say_left_out(path, split, here)
    labels, classes = _labels(here, others, label, str(path))
    columns = {CAPTIONS: np.concatenate([table.read(text) for table in here])} if text else {}
    return open_listing(path, Listing(_Images(here, image), splits[split], labels, classes, columns, {}), reading)


def _splits(path: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of each split; if no name contains a split, all files are of the split "train".

    Raises:
        DataError: only some names contain a split, a name contains two, or the files belong to several data sets.
    """
    splits: dict[str, list[Path]] = {}
    rest, folders = [], set()
    for file in files:
        above = file.parent.relative_to(path).parts if file != path else ()
        words = (*above, *re.split(r"[-_. ]", file.stem))
        named = {split for word in words if (split := split_called(word))}
        if len(named) > 1:
            raise DataError(f"{file} is named after the splits {' and '.join(sorted(named))}: name it after one")
        folders.add("/".join(part for part in above if not split_called(part)))
        if named:
            splits.setdefault(named.pop(), []).append(file)
        else:
            rest.append(file)
    if splits and rest:
        raise DataError(
            f"{path} holds splits ({', '.join(splits)}) beside other files ({some(file.name for file in rest)}):"
            " move the others out of it"
        )
    if len(folders) > 1:
        raise DataError(f"{path} holds several data sets ({some(sorted(folders))}): give the folder of one")
    return splits or {"train": rest}


def _say_left_out(path: Path, split: str, tables: Sequence[_Table]) -> None:
    """Warn of missing files, by the numbers in the names of the others, and of unused columns of labels or captions."""
    names = [table.file.name for table in tables]
    said = max((int(match[1]) for name in names if (match := re.search("-of-([0-9]{1,9})", name))), default=0)
    missing = [f"{len(names)} of {said} files of the split {split!r} are there"] if said > len(names) else []
    columns = ", ".join(tables[0].unused[:5])
    unused = [f"not used: {columns}; classes are read from `{LABEL}`, captions from `{TEXT}`"] if columns else []
    if missing or unused:
        warnings.warn(f"{path}: {'; '.join(missing + unused)}", TinyDDPMWarning, stacklevel=2)


class _Table:
    """A Parquet file with its columns of images, labels and captions.

    Attributes:
        file: its path.
        columns: the names of the columns of images, of labels and of captions; the latter two are None if missing.
        unused: columns, with their types, that are not used though their names are those of labels or captions, or
            though the file has neither of these.
        classes: the names of the classes, () if the file has none.
        groups: the number of rows in each row group.

    Raises:
        DataError: the file is damaged, or has no column of images.
    """

    def __init__(self, file: Path) -> None:
        _require_pyarrow(file)
        self.file, self._metadata = file, None
        with self._opened() as opened:
            schema, metadata = opened.schema_arrow, opened.metadata
            self.groups = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
            rows, self._metadata = metadata.num_rows, metadata
        if min(self.groups, default=0) < 0 or sum(self.groups) != rows or not 0 < rows <= file.stat().st_size:
            raise DataError(f"{file} says that it holds {rows} rows, in {file.stat().st_size} bytes: save it anew")
        kinds = {field.name: field.type for field in schema}
        images = [name for name, kind in kinds.items() if _is_image(name, kind)]
        image = _first(IMAGES, images) or (images[0] if len(images) == 1 else None)
        if image is None:
            found = some(f"{name} ({kind!s:.60})" for name, kind in kinds.items())
            raise DataError(f"{file} has no column `image` of bytes, or of {{bytes, path}}, but {found or 'none'}")
        label = _first(LABELS, [name for name, kind in kinds.items() if _is_class(kind)])
        text = _first(TEXTS, [name for name, kind in kinds.items() if _is_text(kind)])
        self.columns = image, label, text
        candidates = LABELS + TEXTS if label or text else kinds
        self.unused = [
            f"{name} ({kinds[name]!s:.60})" for name in candidates if name in {*kinds} - {image, label, text}
        ]
        self.classes = _class_names((schema.metadata or {}).get(b"huggingface", b""), label)

    def read(self, column: str) -> Samples:
        """Return a column of plain values, (n,); texts as an object array.

        Raises:
            DataError: the column is damaged, or a value is missing.
        """
        listed = self.rows(column, range(len(self.groups))).to_pylist()
        if None in listed:
            raise DataError(f"{self.file}: `{column}` of row {listed.index(None)} is missing: fill it, or leave it out")
        return np.asarray(listed, object if isinstance(listed[0], str) else None)

    def rows(self, column: str, groups: Iterable[int]) -> pyarrow.ChunkedArray:
        """Return a column in some row groups. Its size is checked while unpacking, as few bytes may become many.

        Raises:
            DataError: the column is damaged, or exceeds the memory limit.
        """
        import pyarrow

        groups, pieces, size = list(groups), [], 0
        with self._opened() as opened:
            for batch in opened.iter_batches(AT_ONCE, row_groups=groups, columns=[column], use_threads=False):
                piece = batch.column(0)
                piece.validate(full=True)
                size += piece.nbytes
                check_memory(size, f"{self.file}, `{column}`", "write smaller groups of rows")
                pieces.append(piece)
            if sum(map(len, pieces)) != sum(self.groups[k] for k in groups):
                raise ValueError("rows are missing")
            return pyarrow.chunked_array(pieces)

    @contextmanager
    def _opened(self) -> Iterator[parquet.ParquetFile]:
        """Open the file; errors inside the block become a DataError that names it."""
        import pyarrow
        from pyarrow import parquet

        try:
            check_file(self.file)
            with parquet.ParquetFile(self.file, metadata=self._metadata, page_checksum_verification=True) as opened:
                yield opened
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as cause:
            reason = " ".join(str(cause).split())[:200]
            raise DataError(f"{self.file} is no Parquet file, or damaged ({reason}): fetch or save it anew") from cause


class _Images:
    """The image files in a column of several tables, one table after the other. Several threads may read."""

    def __init__(self, tables: Sequence[_Table], column: str) -> None:
        self._column = column
        self._groups = [(table, k, sum(table.groups[:k])) for table in tables for k in range(len(table.groups))]
        self._starts = np.cumsum([0, *(table.groups[k] for table, k, _ in self._groups)])
        self._rows = lru_cache(GROUPS)(self._read)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[Encoded]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int, /) -> Encoded:
        """Return image `i`.

        Raises:
            DataError: the file is damaged there, or the row has no bytes.
        """
        group = int(np.searchsorted(self._starts, i, "right")) - 1
        within = i - int(self._starts[group])
        table, _, first = self._groups[group]
        with self._lock:
            value = self._rows(group)[within].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        name = f"{table.file}, row {first + within}"
        if not isinstance(data, bytes):
            raise DataError(f"{name} has no bytes of an image: fetch the data set with its images, not their paths")
        return Encoded(name, data)

    def _read(self, group: int) -> pyarrow.ChunkedArray:
        table, k, _ = self._groups[group]
        return table.rows(self._column, [k])


def _labels(
    here: Sequence[_Table], others: Sequence[_Table], label: str | None, name: str
) -> tuple[Samples | None, tuple[str, ...]]:
    """Return the labels of the tables `here` and the names of the classes, which all splits share.

    Raises:
        DataError: the labels have a wrong form, or one has no name while the files name the classes.
    """
    if label is None:
        return None, ()
    own = np.concatenate([table.read(label) for table in here])
    values = np.concatenate([own, *(known(table.read(label)) for table in others)])
    numbers, classes = checked_labels(values, len(values), (), name)
    names = here[0].classes
    if names and values.dtype.kind in "iu":
        if int(values.max()) >= len(names):
            raise DataError(
                f"{name}: label {values.max()} is not in 0 to {len(names) - 1}, the classes that have names"
            )
        classes = tuple(names[int(number)] for number in classes)
    return None if numbers is None else numbers[: len(own)], classes


def _first(wanted: Sequence[str], names: Iterable[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _is_image(name: str, kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(part.name == "bytes" and _is_image(IMAGES[0], part.type) for part in kind)
    return name in IMAGES and bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_class(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_boolean(kind)) or _is_text(kind)


def _class_names(description: bytes, label: str | None) -> tuple[str, ...]:
    """Return the names of the classes in Hugging Face's metadata of a table, () if there are none."""
    try:
        names = json.loads(description)["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _require_pyarrow(file: Path) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as cause:
        raise DataError(
            f"{file} is read by pyarrow, which is not installed: run pip install 'tinyddpm[parquet]', or give the"
            " images as files"
        ) from cause
