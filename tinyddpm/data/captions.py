"""Captions and classes of a folder's images, from metadata files or text files beside the images.

    photos/metadata.jsonl     {"file_name": "1.jpg", "text": "a red apple", "label": "fruit"} in each line
    photos/metadata.csv       the same as a table, with these names in its first line
    photos/1.txt              the caption of photos/1.jpg

`text` is the caption and `label` the class. Either may be missing, and other fields are ignored. This is the format of
Hugging Face's image folders. All files are UTF-8. Metadata may also lie above the folders of splits and name images as
"train/1.jpg". Other tables are not read; if one names images, a warning says so.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from tinyddpm.data.base import check_memory
from tinyddpm.errors import DataError, TinyDDPMWarning
from tinyddpm.files import is_file, is_folder
from tinyddpm.progress import Watch, unwatched, watched

FILE, TEXT, LABEL = "file_name", "text", "label"
METADATA = ("metadata.jsonl", "metadata.csv")
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".txt")
"""Suffixes of files that may describe images in a form that is not read."""
TABLES_TRIED, TABLE_READ = 20, 2**20
"""The largest number of such files that are examined for names of images, and of bytes of each."""
LONG_STEM = 6
"""Least length of a name without its suffix for which a table is taken to mean the image."""

Row: TypeAlias = tuple[int, dict[str, Any]]
"""The number of a line, and its fields."""


def read_annotations(
    folder: Path, images: Sequence[Path], above: Path, watch: Watch = unwatched
) -> dict[str, list[str]]:
    """Return the columns "text" and "label" of the images in `folder`, those that exist, with one value per image.

    Captions in text files are read if the metadata has no `text`.

    Args:
        folder: the folder of the images, or of the folders of their classes.
        images: the paths of the images.
        above: the folder of which `folder` is a split; `folder` itself if there are no splits.
        watch: called with the number of text files read.

    Raises:
        DataError: an image has no value or is named twice, or a file is no UTF-8 or has another format.
    """
    found = _of_metadata(folder, images, folder)
    if above != folder and (others := _of_metadata(above, images, folder)):
        if found:
            raise DataError(f"{folder} holds metadata of the same images as {above} does: keep one of them")
        found = others
    beside = [_text_beside(image) for image in images]
    if TEXT in found or not any(path.is_file() for path in beside):
        if not found:
            _say_unread(folder, above, images)
        return found
    lacking = [path for path in beside if not path.is_file()]
    if lacking:
        raise DataError(f"{folder}: {len(lacking)} of {len(images)} images lack a caption: {lacking[0]} is not there")
    return {**found, TEXT: [_read_text(path).strip() for path in watched(beside, len(beside), watch, "captions read")]}


def _text_beside(image: Path) -> Path:
    """Return the path of the caption of an image, whether or not it exists."""
    path, capitals = image.with_suffix(".txt"), image.with_suffix(".TXT")
    return capitals if capitals.is_file() and not path.is_file() else path


def _say_unread(folder: Path, above: Path, images: Sequence[Path]) -> None:
    """Warn of tables that name images, in or above the folder of the images, as they may hold classes or captions."""
    stems = {image.stem for image in images}
    names = {name.split()[-1] for name in stems if len(name) >= LONG_STEM} | {i.name.split()[-1] for i in images}
    told = [place / name for place in (above, folder) for name in METADATA]
    tables = _tables(dict.fromkeys([above, folder]))
    candidates = (path for path in tables if path not in told and path.stem not in stems)
    found = [path for path in islice(candidates, TABLES_TRIED) if _names_any(path, names)]
    if found:
        warnings.warn(
            f"{', '.join(map(str, found[:3]))}: not read, though images are named there: put their {LABEL} or {TEXT}"
            f" into {' or '.join(METADATA)}, by {FILE}",
            TinyDDPMWarning,
            stacklevel=2,
        )


def _tables(folders: Iterable[Path], depth: int = 1) -> Iterator[Path]:
    """Yield the files in some folders, then those in their subfolders, that have a suffix of tables."""
    below = []
    for folder in folders:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
        below += [folder / entry.name for entry in shown if depth and is_folder(entry)]
        tables = [entry for entry in shown if entry.name.lower().endswith(TABLES) and is_file(entry)]
        yield from sorted(folder / entry.name for entry in tables)
    if below:
        yield from _tables(sorted(below), depth - 1)


def _names_any(table: Path, names: Collection[str]) -> bool:
    """Return whether the beginning of a file has one of `names` as a word."""
    with table.open("rb") as file:
        text = file.read(TABLE_READ).decode("utf-8", "replace")
    return not set(names).isdisjoint(re.findall(r"""[^\s,;:"'/\\|<>()\[\]{}]+""", text))


def _of_metadata(folder: Path, images: Sequence[Path], split: Path) -> dict[str, list[str]]:
    """Return the columns that the metadata in `folder` has for the images in `split`, which is `folder` or in it."""
    files = [folder / name for name in METADATA if (folder / name).is_file()]
    if not files:
        return {}
    if len(files) > 1:
        raise DataError(f"{folder} holds {' and '.join(METADATA)}: keep one of them")
    path = files[0]
    rows = list((_json_rows if path.suffix == ".jsonl" else _table_rows)(path))
    columns = [column for column in (TEXT, LABEL) if any(column in row for _, row in rows)]
    if not columns:
        keys = {repr(key) for _, row in rows for key in row if key != FILE}
        but = f", but {', '.join(sorted(keys)[:5])}" if keys else ""
        warnings.warn(f"{path} is not used: it has neither {TEXT} nor {LABEL}{but}", TinyDDPMWarning, stacklevel=2)
        return {}
    inside = _name(split.relative_to(folder).as_posix())
    values = {name: row for name, row in _by_name(path, rows, columns).items() if name.is_relative_to(inside)}
    if not values and split != folder:
        first = images[0].relative_to(folder).as_posix()
        warnings.warn(f"{path} is not used: it names no image as {first}", TinyDDPMWarning, stacklevel=2)
        return {}
    names = [_name(image.relative_to(folder).as_posix()) for image in images]
    lacking, strange = [name for name in names if name not in values], values.keys() - set(names)
    but = f"; it names {str(min(strange))!r}, which is not there" if strange else ": add a line for each"
    if lacking:
        raise DataError(f"{path} says nothing of {len(lacking)} images, such as {lacking[0]}{but}")
    if strange:
        raise DataError(
            f"{path} names {len(strange)} images that are not there, such as {str(min(strange))!r}: remove them"
        )
    return {column: [values[name][k] for name in names] for k, column in enumerate(columns)}


def _by_name(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> dict[PurePosixPath, list[str]]:
    """Return the values of `columns` by the name of the image, which must be in the folder and named once."""
    values: dict[PurePosixPath, list[str]] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        name = _name(_value(row, FILE, where))
        if name.is_absolute() or ".." in name.parts:
            raise DataError(f"{where}: {str(name)!r} leads out of the folder: name images within it")
        if name in values:
            raise DataError(f"{where} names {str(name)!r} a second time: keep one line an image")
        values[name] = [_value(row, column, where) for column in columns]
    return values


def _name(text: str) -> PurePosixPath:
    """Return the name of an image in Unicode's composed form; some systems decompose the names of files."""
    return PurePosixPath(unicodedata.normalize("NFC", text))


def _value(row: dict[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if column == LABEL and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or (column == LABEL and not value.strip()):
        given = f"it is {value!r:.40}" if value else "there is none"
        raise DataError(f"{where}: give {column} as a text; {given}")
    return value.strip() if column == LABEL else value


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as cause:
            raise DataError(f"{path}, line {number} is no JSON ({cause}): write an object a line") from cause
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} is no object: write {{{FILE!r}: …, {TEXT!r}: …}}, as JSON")
        yield number, row


def _table_rows(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        for column in (FILE, TEXT, LABEL):
            if (reader.fieldnames or ()).count(column) > 1:
                raise DataError(f"{path} has several columns {column}: keep one of them")
        for row in reader:
            if None in row:
                raise DataError(f"{path}, line {reader.line_num} has more fields than the first: quote commas")
            yield reader.line_num, row
    except csv.Error as cause:
        raise DataError(f"{path}, line {reader.line_num} is no CSV ({cause}): save the table anew") from cause


def _read_text(path: Path) -> str:
    check_memory(path.stat().st_size, str(path))
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise DataError(f"{path} is no UTF-8 ({cause.reason} at byte {cause.start}): save it as UTF-8") from cause
