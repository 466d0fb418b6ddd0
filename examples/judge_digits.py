"""Judge drawn digits: the share whose nearest real digit is of the class that they were drawn for.

tinyddpm sample runs/digits --count 1000 --npz --out drawn
python examples/judge_digits.py drawn/samples.npz
"""

import sys

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data import open_dataset


def squared_distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared distance of each row of a to each row of b, (len(a), len(b))."""
    distances: NDArray[np.float64] = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    return distances


def main(path: str) -> None:
    dataset = open_dataset("digits")
    real, classes = dataset.read(np.arange(len(dataset))).reshape(len(dataset), -1).astype(float), dataset.labels
    assert classes is not None
    with np.load(path) as arrays:
        drawn, labels = arrays["images"].reshape(len(arrays["images"]), -1).astype(float), arrays["labels"]

    among_real = squared_distances(real, real)
    np.fill_diagonal(among_real, np.inf)
    for name, distances, own in (
        ("drawn digits", squared_distances(drawn, real), labels),
        ("real digits, each left out", among_real, classes),
    ):
        right = np.mean(classes[distances.argmin(1)] == own)
        distance = np.sqrt(np.maximum(distances.min(1), 0)).mean()
        print(f"{name}: {right:.1%} nearest to their own class, at a distance of {distance:.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
