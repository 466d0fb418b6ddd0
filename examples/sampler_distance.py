"""How far are drawn pictures from real ones? The Fréchet distance of their pixels, beside that of real ones.

tinyddpm sample runs/fashion --count 500 --npz --out fast --sampler dpmpp-2m-sde --steps 20
tinyddpm sample runs/fashion --count 500 --npz --out slow --steps 250
python examples/sampler_distance.py fashion-mnist fast/samples.npz slow/samples.npz
"""

import sys

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data import open_dataset

Rows = NDArray[np.float64]


def frechet(a: Rows, b: Rows) -> float:
    """Return |μ_a − μ_b|² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of the Gaussians with the moments of two sets of rows.

    The last trace is the sum of the singular values of C_a C_bᵀ, C the centred rows over √(n − 1).
    """
    c_a, c_b = ((rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (a, b))
    cross = np.linalg.svd(c_a @ c_b.T, compute_uv=False).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + (c_a**2).sum() + (c_b**2).sum() - 2 * cross)


def real(source: str, split: str, labels: NDArray[np.int64]) -> Rows:
    """Return as many pictures of each class as `labels` has."""
    dataset = open_dataset(source, split=split)
    assert dataset.labels is not None
    chosen = [np.flatnonzero(dataset.labels == k)[: np.sum(labels == k)] for k in np.unique(labels)]
    return pixels(dataset.read(np.sort(np.concatenate(chosen))))


def pixels(images: NDArray[np.uint8]) -> Rows:
    """Return pictures as rows of numbers from 0 to 1."""
    return images.reshape(len(images), -1) / 255


def main(source: str, *paths: str) -> None:
    for path in paths:
        with np.load(path) as arrays:
            images, labels = arrays["images"], arrays["labels"]
        print(f"{path}: {frechet(pixels(images), real(source, 'test', labels)):.2f}")
    print(f"as many of the training set: {frechet(real(source, 'train', labels), real(source, 'test', labels)):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
