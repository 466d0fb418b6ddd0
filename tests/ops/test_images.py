"""Pixels taken from images, whole and between others, against plain loops."""

from __future__ import annotations

import numpy as np

from tinyddpm.backend import Backend
from tinyddpm.ops.images import bilinear, gathered

RNG = np.random.default_rng(2)
IMAGES = RNG.normal(size=(3, 4, 5, 2)).astype(np.float32)


def test_pixels_are_gathered_by_row_and_column(other_backend: Backend) -> None:
    """Each image has rows and columns of its own, in any order and number."""
    rows, columns = RNG.integers(0, 4, (3, 6)), RNG.integers(0, 5, (3, 7))
    found = other_backend.to_numpy(gathered(*map(other_backend.asarray, (IMAGES, rows, columns))))
    for n, i, j in np.ndindex(3, 6, 7):
        np.testing.assert_array_equal(found[n, i, j], IMAGES[n, rows[n, i], columns[n, j]])


def test_places_between_pixels_are_weighted_means(other_backend: Backend) -> None:
    """Of the four around; a place on a pixel is that pixel, one outside the image the nearest place inside."""
    rows = np.array([[0.0, 1.25, 3.0], [-2.0, 0.5, 2.75], [3.0, 3.5, 9.0]], np.float32)
    columns = np.array([[4.0, 0.5, 2.0, 3.75], [-0.5, 4.0, 4.5, 9.0], [1.0, 1.5, 0.0, 7.0]], np.float32)
    found = other_backend.to_numpy(bilinear(*map(other_backend.asarray, (IMAGES, rows, columns))))
    for n, i, j in np.ndindex(3, 3, 4):
        row, column = min(max(rows[n, i], 0), 3), min(max(columns[n, j], 0), 4)
        expected = np.zeros(2)
        for at_row, at_column in np.ndindex(4, 5):
            share = max(0.0, 1 - abs(row - at_row)) * max(0.0, 1 - abs(column - at_column))
            expected += share * IMAGES[n, at_row, at_column]
        np.testing.assert_allclose(found[n, i, j], expected, rtol=0, atol=1e-6)
