"""Captions and classes of a folder's images, from metadata files or text files beside the images.

    photos/metadata.jsonl     {"file_name": "1.jpg", "text": "a red apple", "label": "fruit"} in each line
    photos/metadata.csv       the same as a table, with these names in its first line
    photos/1.txt              the caption of photos/1.jpg

`text` is the caption and `label` the class. Either may be missing, and other fields are ignored. This is the format of
Hugging Face's image folders. All files are UTF-8. Metadata may also lie above the folders of splits and name images as
"train/1.jpg".
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from tinyddpm.data.base import check_memory
from tinyddpm.errors import DataError, TinyDDPMWarning
from tinyddpm.progress import Watch, unwatched, watched

FILE, TEXT, LABEL = "file_name", "text", "label"
METADATA = ("metadata.jsonl", "metadata.csv")

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
    beside = [image.with_suffix(".txt") for image in images]
    if TEXT in found or not any(path.is_file() for path in beside):
        return found
    lacking = [path for path in beside if not path.is_file()]
    if lacking:
        raise DataError(f"{folder}: {len(lacking)} of {len(images)} images lack a caption: {lacking[0]} is not there")
    return {**found, TEXT: [_read_text(path).strip() for path in watched(beside, len(beside), watch, "captions read")]}


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
        others = ", ".join(sorted(keys)[:5]) or "nothing"
        warnings.warn(
            f"{path} is not used: it has neither {TEXT} nor {LABEL}, but {others}", TinyDDPMWarning, stacklevel=2
        )
        return {}
    inside = PurePosixPath(split.relative_to(folder).as_posix())
    values = {name: row for name, row in _by_name(path, rows, columns).items() if name.is_relative_to(inside)}
    if not values and split != folder:
        first = images[0].relative_to(folder).as_posix()
        warnings.warn(f"{path} is not used: it names no image as {first}", TinyDDPMWarning, stacklevel=2)
        return {}
    names = [PurePosixPath(image.relative_to(folder).as_posix()) for image in images]
    lacking, strange = [name for name in names if name not in values], values.keys() - set(names)
    if lacking:
        raise DataError(f"{path} says nothing of {len(lacking)} images, such as {lacking[0]}: add a line for each")
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
        name = PurePosixPath(_value(row, FILE, where))
        if name.is_absolute() or ".." in name.parts:
            raise DataError(f"{where}: {str(name)!r} leads out of the folder: name images within it")
        if name in values:
            raise DataError(f"{where} names {str(name)!r} a second time: keep one line an image")
        values[name] = [_value(row, column, where) for column in columns]
    return values


def _value(row: dict[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if column == LABEL and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        given = "there is none" if value is None else f"it is {value!r:.40}"
        raise DataError(f"{where}: give {column} as a text; {given}")
    return value


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
