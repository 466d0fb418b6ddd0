"""The registered sets of images: two shipped ones, and Fashion-MNIST if it is installed."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import numpy as np

from tinyddpm.data import idx
from tinyddpm.data.base import ArrayDataset, require_split
from tinyddpm.errors import DataError

DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

FASHION_SHA256 = {
    "train": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "test": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
"""SHA-256 of the decompressed images and labels of each split; packagers compress the files in their own way."""


def digits(split: str, data_dir: str | None) -> ArrayDataset:
    """Return 1797 handwritten digits, 8x8x1 (Alpaydin and Kaynak 1998; see `shipped/NOTICE.md`)."""
    return _shipped("digits", DIGITS, split)


def fashion_mini(split: str, data_dir: str | None) -> ArrayDataset:
    """Return 4000 training images of Fashion-MNIST, 400 per class, 28x28x1 (see `shipped/NOTICE.md`)."""
    return _shipped("fashion-mini", FASHION, split)


def fashion_mnist(split: str, data_dir: str | None) -> ArrayDataset:
    """Return Fashion-MNIST, 28x28x1: 60000 images to train on or 10000 to test with (Xiao, Rasul, Vollgraf 2017).

    The files are searched for in `data_dir`, then in the folder of Debian's package, then in the user's data folder.

    Raises:
        DataError: the files are in none of them, or differ from the published ones.
    """
    require_split(split, ("train", "test"), "fashion-mnist")
    user_data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    folders = [Path(data_dir)] if data_dir else []
    folders += [DEBIAN_FOLDER, Path(user_data, "tinyddpm", "fashion-mnist")]
    for folder in (f.expanduser() for f in folders):
        stem = folder / f"{'train' if split == 'train' else 't10k'}-images-idx3-ubyte"
        for images in (stem, stem.with_name(stem.name + ".gz")):
            if images.is_file():
                name = f"fashion-mnist in {folder}"
                return idx.open_idx(images, classes=FASHION, name=name, sha256=FASHION_SHA256[split])
    places = ", ".join(map(str, folders))
    raise DataError(
        f"fashion-mnist ({split}) is not in any of {places}:"
        " apt install dataset-fashion-mnist, or name the folder of its IDX files with --data-dir"
    )


def _shipped(name: str, classes: tuple[str, ...], split: str) -> ArrayDataset:
    require_split(split, ("train",), name)
    file = resources.files("tinyddpm.data") / "shipped" / f"{name}.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return ArrayDataset(arrays["images"], arrays["labels"], classes, name=name)
