"""Data sets: registered ones by name, others by the path of a file or folder. No reader is imported before its use."""

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

__all__ = ["ARRAY", "PATH_OPTIONS", "open_dataset", "parse_size"]

ARRAY = "array"
"""The source of data that were given as an array. A run records it and not the array."""

PATH_OPTIONS = ("background", "frames", "levels")
"""The options of a path, each a text; see `open_path`."""


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
        image_size: (H, W) to bring all images to: they are cropped around the middle to this ratio, then resized.
        data_dir: the folder to search first for a registered data set that is not shipped.
        split: "train", "test", or another split of the data set.
        options: the options of a registered data set, or of a path; see `open_path`.
        watch: called with the progress of reading image files.
        cache: whether decoded images are cached on disk if decoding takes long; see `cache.py`.

    Raises:
        DataError: the data set or the split does not exist, cannot be read or has an unknown format, an image size is
            given for points, or a plugin returns no data set.
        ConfigError: an option is unknown or wrong.
        RegistryError: the name belongs to a broken plugin, or to two plugins.
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
    if source == ARRAY:
        raise DataError("the data were given as an array, which is not kept: give it again, or a file of it by --data")
    raise DataError(f"{unknown('data set', source, names)}; the path of a file or folder would do too")


def parse_size(text: str | int) -> tuple[int, int]:
    """Return (H, W) from a text "HxW", such as "32x48"; "32" means 32x32.

    Raises:
        ConfigError: the text is not of this form.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", str(text).strip(), re.ASCII)
    if match is None:
        raise ConfigError(f"image size {text!r} is not HxW: write the height, an x and the width, such as 32x32, or 32")
    return int(match[1]), int(match[2] or match[1])
