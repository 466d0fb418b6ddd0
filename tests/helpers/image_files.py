"""Image files, written and read as a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tinyddpm.data import open_dataset


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def colours(rng: np.random.Generator, height: int = 6, width: int = 5) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def everything(path: Path, **options: object) -> np.ndarray:
    dataset = open_dataset(str(path), **options)  # type: ignore[arg-type]
    return dataset.read(np.arange(len(dataset)))
