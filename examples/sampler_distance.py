"""Measure the Fréchet distance of drawn images to real ones, in pixels, beside that between two sets of real images.

tinyddpm sample runs/fashion --count 500 --npz --out fast --sampler dpmpp-2m-sde --steps 20
tinyddpm sample runs/fashion --count 500 --npz --out slow --steps 250
python examples/sampler_distance.py fashion-mnist fast/samples.npz slow/samples.npz
"""

import sys

import numpy as np
from numpy.typing import NDArray

from tinyddpm.data import open_dataset
from tinyddpm.metrics.frechet import frechet_distance

Rows = NDArray[np.float64]


def real(source: str, split: str, labels: NDArray[np.int64]) -> Rows:
    """Return the pixels of real images, as many of each class as `labels` has."""
    dataset = open_dataset(source, split=split)
    assert dataset.labels is not None
    chosen = [np.flatnonzero(dataset.labels == k)[: np.sum(labels == k)] for k in np.unique(labels)]
    return pixels(dataset.read(np.sort(np.concatenate(chosen))))


def pixels(images: NDArray[np.uint8]) -> Rows:
    """Return images as rows of numbers from 0 to 1, (n, H W C)."""
    return images.reshape(len(images), -1) / 255


def main(source: str, *paths: str) -> None:
    for path in paths:
        with np.load(path) as arrays:
            images, labels = arrays["images"], arrays["labels"]
        print(f"{path}: {frechet_distance(pixels(images), real(source, 'test', labels)):.2f}")
    floor = frechet_distance(real(source, "train", labels), real(source, "test", labels))
    print(f"as many of the training set: {floor:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
