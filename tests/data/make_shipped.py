"""Makes what is shipped in `tinyddpm/data/shipped` from its sources: two sets of images, and the names of emoji.

    python tests/data/make_shipped.py SCIKIT_LEARN_WHEEL FASHION_MNIST_FOLDER EMOJI_TEST_TXT

Images are uint8 (n, H, W), labels uint8 (n,). Nothing here is random, so the content comes out the same every time.
"""

from __future__ import annotations

import gzip
import re
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


def make_emoji(emoji_test: Path) -> str:
    """A line for each group, then one for each fully-qualified emoji in it: its characters, a tab, its name."""
    lines = []
    for line in emoji_test.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            lines.append(line.removeprefix("# group: "))
        found = re.fullmatch(r"([0-9A-F ]+?) *; fully-qualified +# \S+ E[0-9.]+ (.+)", line)
        if found:
            lines.append("".join(chr(int(point, 16)) for point in found[1].split()) + "\t" + found[2])
    return "\n".join(line for line in lines if line != "Component") + "\n"


if __name__ == "__main__":
    wheel, folder, emoji_test = map(Path, sys.argv[1:])
    np.savez_compressed(SHIPPED / "digits.npz", **make_digits(wheel))
    np.savez_compressed(SHIPPED / "fashion-mini.npz", **make_fashion_mini(folder))
    (SHIPPED / "emoji.txt.gz").write_bytes(gzip.compress(make_emoji(emoji_test).encode(), mtime=0))
