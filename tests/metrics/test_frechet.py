"""The Fréchet distance against its closed form."""

from __future__ import annotations

import numpy as np
import pytest

from tinyddpm.errors import DataError
from tinyddpm.metrics.frechet import frechet_distance


def square_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


@pytest.mark.parametrize(("n", "m", "d"), [(50, 40, 3), (40, 60, 8), (2, 2, 1)])
def test_is_the_distance_of_the_gaussians(rng: np.random.Generator, n: int, m: int, d: int) -> None:
    """By square roots of the covariances, Tr (√Σ_a Σ_b √Σ_a)^½, where there are more rows than columns."""
    a, b = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), 1 + 2 * rng.normal(size=(m, d))
    s_a, s_b = (np.atleast_2d(np.cov(rows.T)) for rows in (a, b))
    root = square_root(s_a)
    cross = np.trace(square_root(root @ s_b @ root))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s_a) + np.trace(s_b) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_of_a_shifted_set_is_the_shift_squared(rng: np.random.Generator) -> None:
    """Also with fewer rows than columns; of a set and itself it is 0."""
    rows, shift = rng.normal(size=(10, 30)), rng.normal(size=30)
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(rows, rows + shift) == pytest.approx((shift**2).sum(), rel=1e-9)


@pytest.mark.parametrize(("a", "b"), [((1, 3), (4, 3)), ((4, 3), (4, 2)), ((0, 3), (4, 3))], ids=str)
def test_what_has_no_distance_is_refused(a: tuple[int, int], b: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"two or more samples per set, not [01]$|equal width, not 3 and 2$"):
        frechet_distance(np.zeros(a), np.zeros(b))
