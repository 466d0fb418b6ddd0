"""Pack a folder of images into an HDF5 file, from which training reads batch by batch.

python examples/pack_folder.py FOLDER FILE.h5 [HxW]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tinyddpm.data import parse_size
from tinyddpm.data.base import CAPTIONS
from tinyddpm.data.folder import list_images
from tinyddpm.data.image_files import ImageFiles, Reading
from tinyddpm.errors import DataError, TinyDDPMError


def pack(folder: Path, target: Path, image_size: tuple[int, int] | None) -> None:
    listing = list_images(folder)
    files = ImageFiles(listing.images, Reading(image_size))
    shape = files.read(0)[0].shape
    with h5py.File(target, "x") as file:
        images = file.create_dataset("images", (len(listing.images), *shape), "uint8")
        for i, path in enumerate(listing.images):
            image = files.read(i)[0]
            if image.shape != shape:
                raise DataError(f"{path} is {image.shape}, the first image {shape}: give a size, such as 64x64")
            images[i] = image
        files.check_levels()
        if listing.labels is not None:
            file["labels"] = listing.labels
            file["classes"] = as_json(listing.classes)
        if CAPTIONS in listing.columns:
            file["captions"] = as_json(listing.columns[CAPTIONS].tolist())


def as_json(strings: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(json.dumps(strings).encode(), np.uint8)


if __name__ == "__main__":
    try:
        pack(Path(sys.argv[1]), Path(sys.argv[2]), parse_size(sys.argv[3]) if len(sys.argv) > 3 else None)
    except (TinyDDPMError, OSError, IndexError) as error:
        sys.exit(__doc__ if isinstance(error, IndexError) else f"error: {error}")
