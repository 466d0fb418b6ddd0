"""Data sets: registered ones by name, others by the path of a file or folder. Importing this imports no reader."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyddpm.errors import ConfigError, DataError, unknown
from tinyddpm.progress import Watch, unwatched

if TYPE_CHECKING:
    from tinyddpm.data.base import Dataset

__all__ = ["PATH_OPTIONS", "open_dataset", "parse_size"]

PATH_OPTIONS = ("background", "frames", "levels")
"""Options that paths have, each a text."""


def open_dataset(
    source: str,
    *,
    image_size: tuple[int, int] | None = None,
    data_dir: str | None = None,
    split: str = "train",
    options: Mapping[str, Any] | None = None,
    watch: Watch = unwatched,
    cache: bool = False,
) -> Dataset:
    """Return the data set that `source` names.

    Args:
        source: a name of the registry's `datasets` group, or the path of a file or folder. A name wins over a path that
            is spelt the same; `./digits` is then the path.
        image_size: crop images in the middle to this ratio of height to width and resize them to (H, W).
        data_dir: where to look first for a registered data set that is not shipped.
        split: "train", "test", or another that a registered data set has.
        options: of a registered data set, or of a path; see `open_path`.
        watch: is told how far the reading of image files is.
        cache: whether images that take long to decode are kept for the next time; see `cache.py`.

    Raises:
        DataError: there is no such data set or split, it cannot be understood or read, it holds points, which have no
            image size, or what a plugin returns is no data set.
        ConfigError: an option is unknown or wrong.
        RegistryError: the name belongs to a broken plugin, or to two.
    """
    from tinyddpm import registry

    names = {entry.name for entry in registry.entries("datasets")}
    if source in names:
        from tinyddpm.data.base import checked_dataset
        from tinyddpm.data.resize import resized

        found = registry.build("datasets", source, (split, data_dir), options or {})
        return resized(checked_dataset(found, source), image_size)
    if os.path.exists(os.path.expanduser(source)):
        from tinyddpm.data.paths import open_path

        return open_path(Path(source).expanduser(), image_size, split, options or {}, watch, cache)
    if Path(source).name != source or Path(source).suffix:
        raise DataError(f"there is no file or folder {source}: check the path, or give a data set's name")
    raise DataError(f"{unknown('data set', source, names)}; the path of a file or folder would do too")


def parse_size(text: str | int) -> tuple[int, int]:
    """Return (H, W) from "HxW", such as "32x48"; "32" is as high as wide.

    Raises:
        ConfigError: the text is not of this form.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", str(text).strip(), re.ASCII)
    if match is None:
        raise ConfigError(f"image size {text!r} is not HxW: write the height, an x and the width, such as 32x32, or 32")
    return int(match[1]), int(match[2] or match[1])
