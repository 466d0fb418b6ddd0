"""Makes the two sets that are shipped in `tinyddpm/data/shipped` from their sources.

    python tests/data/make_shipped.py SCIKIT_LEARN_WHEEL FASHION_MNIST_FOLDER

Images are uint8 (n, H, W), labels uint8 (n,). Nothing here is random, so the arrays come out the same every time.
"""

from __future__ import annotations

import gzip
import sys
import zipfile
from pathlib import Path

import numpy as np

import tinyddpm.data
from tinyddpm.data.idx import read_idx
from tinyddpm.data.images import FASHION_SHA256

SHIPPED = Path(tinyddpm.data.__file__).parent / "shipped"
PER_CLASS = 400


def make_digits(wheel: Path) -> dict[str, np.ndarray]:
    """64 values from 0 to 16 and a label per line; 0 to 16 becomes 0 to 255, rounded."""
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(archive.read("sklearn/datasets/data/digits.csv.gz")).decode().splitlines()
    table = np.loadtxt(lines, delimiter=",").astype(np.int64)
    images = np.round(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return {"images": images, "labels": table[:, 64].astype(np.uint8)}


def make_fashion_mini(folder: Path) -> dict[str, np.ndarray]:
    """The first 400 training images of each class, in the order of the training set."""
    images_hash, labels_hash = FASHION_SHA256["train"]
    images = read_idx(folder / "train-images-idx3-ubyte.gz", images_hash)
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz", labels_hash)
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == k)[:PER_CLASS] for k in range(10)]))
    return {"images": images[chosen], "labels": labels[chosen]}


if __name__ == "__main__":
    wheel, folder = map(Path, sys.argv[1:])
    np.savez_compressed(SHIPPED / "digits.npz", **make_digits(wheel))
    np.savez_compressed(SHIPPED / "fashion-mini.npz", **make_fashion_mini(folder))
