"""The toy distributions against what their docstrings say of them.

Bounds are five standard errors of the 20000 points: a right generator fails one such bound once in 1.7 million, and the
points are always the same. Standard errors are estimated from the points themselves.
"""

from __future__ import annotations

import numpy as np
import pytest

from tinyddpm.data import open_dataset
from tinyddpm.data.planes import mixture_1d_parameters, mixture_parameters
from tinyddpm.errors import DataError

DIMENSIONS = {"mixture": 2, "mixture-1d": 1, "moons": 2, "swiss-roll": 2, "ring": 2}
MIXTURES = {"mixture": mixture_parameters(), "mixture-1d": mixture_1d_parameters()}
ERRORS = 5.0


def points_of(name: str, split: str = "train") -> np.ndarray:
    dataset = open_dataset(name, split=split)
    assert dataset.shape == (DIMENSIONS[name],)
    return dataset.read(np.arange(len(dataset)))


def assert_mean(values: np.ndarray, expected: float) -> None:
    """The mean of `values` (n,) is `expected` within the stated bound."""
    assert abs(values.mean(dtype=np.float64) - expected) < ERRORS * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("name", DIMENSIONS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_standardised(name: str, split: str) -> None:
    points = points_of(name, split).astype(np.float64)
    for coordinate in points.T:
        assert_mean(coordinate, 0.0)
    assert_mean((points**2).mean(axis=1), 1.0)


@pytest.mark.parametrize("name", ["moons", "swiss-roll", "ring"])
@pytest.mark.parametrize("noise", [0, 0.02, 2.0])
def test_standardised_whatever_the_noise(name: str, noise: float) -> None:
    dataset = open_dataset(name, options={"noise": noise})
    points = dataset.read(np.arange(len(dataset))).astype(np.float64)
    assert_mean(points[:, 0], 0.0)
    assert_mean(points[:, 1], 0.0)
    assert_mean((points**2).mean(axis=1), 1.0)
    assert not np.array_equal(points.astype(np.float32), points_of(name))


@pytest.mark.parametrize("name", DIMENSIONS)
def test_points_are_always_the_same_and_splits_independent(name: str) -> None:
    train, test = points_of(name), points_of(name, "test")
    np.testing.assert_array_equal(train, points_of(name))
    assert train.dtype == np.float32
    for i in range(train.shape[1]):
        assert_mean(train[:, i].astype(np.float64) * test[:, i], 0.0)


@pytest.mark.parametrize("name", DIMENSIONS)
def test_an_unknown_split_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} has no split 'dev', only 'train' and 'test'"):
        open_dataset(name, split="dev")


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_has_its_parameters(name: str) -> None:
    """Mode by mode: weight, mean and covariance of the labelled points."""
    dataset = open_dataset(name)
    points = dataset.read(np.arange(len(dataset))).astype(np.float64)
    weights, means, covariances = MIXTURES[name]
    assert len(dataset.classes) == len(weights)
    assert weights.sum() == pytest.approx(1.0)
    for k in range(len(weights)):
        mine = dataset.labels == k
        assert_mean(mine.astype(np.float64), weights[k])
        centred = points[mine] - means[k]
        for i in range(DIMENSIONS[name]):
            assert_mean(centred[:, i], 0.0)
            for j in range(DIMENSIONS[name]):
                assert_mean(centred[:, i] * centred[:, j], covariances[k, i, j])


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_has_mean_0_and_unit_covariance(name: str) -> None:
    """Exactly, from its parameters: within and between modes."""
    weights, means, covariances = MIXTURES[name]
    np.testing.assert_allclose(weights @ means, 0, atol=1e-12)
    total = np.einsum("k,kij->ij", weights, covariances) + np.einsum("k,ki,kj->ij", weights, means, means)
    np.testing.assert_allclose(total, np.eye(DIMENSIONS[name]), atol=1e-12)


def test_the_moons_are_two_half_circles() -> None:
    """Undoing shift and scale, points lie about 0.1 from half circles of radius 1; 1.2e-6 of normals exceed 5 sigma."""
    dataset = open_dataset("moons")
    scale = np.sqrt((3 / 4 + 9 / 16 - 1 / np.pi) / 2 + 0.01)
    points = dataset.read(np.arange(len(dataset))).astype(np.float64) * scale + [0.5, 0.25]
    assert dataset.labels is not None
    centres = np.array([[0.0, 0.0], [1.0, 0.5]])[dataset.labels]
    radius = np.linalg.norm(points - centres, axis=1)
    assert np.abs(radius - 1.0).max() < 0.6
    up = np.array([1.0, -1.0])[dataset.labels]
    assert ((points - centres)[:, 1] * up).min() > -0.6
    assert_mean(dataset.labels.astype(np.float64), 0.5)


def test_the_swiss_roll_winds() -> None:
    """Undoing shift and scale, the radius is the angle, modulo 2 pi, up to noise of 1/2 (six sigma is 3)."""
    scale = np.sqrt((9.75 * np.pi**2 - 4 - (2 / (3 * np.pi)) ** 2) / 2 + 0.25)
    points = points_of("swiss-roll").astype(np.float64) * scale + [2.0, 2.0 / (3 * np.pi)]
    radius, angle = np.linalg.norm(points, axis=1), np.arctan2(points[:, 1], points[:, 0])
    assert radius.min() > 1.5 * np.pi - 3.0
    assert radius.max() < 4.5 * np.pi + 3.0
    # For noise of deviation 1/2 alone E cos = exp(-1/8) = 0.88; for an angle without relation to the radius it is 0.
    assert np.cos(radius - angle).mean() > 0.85


def test_the_ring_is_round() -> None:
    points = points_of("ring").astype(np.float64) * np.sqrt(1.01 / 2)
    radius = np.linalg.norm(points, axis=1)
    assert_mean(radius, 1.0)
    assert_mean((radius - 1.0) ** 2, 0.01)
    angle = np.arctan2(points[:, 1], points[:, 0])
    for frequency in (1, 2, 3):
        assert_mean(np.cos(frequency * angle), 0.0)
        assert_mean(np.sin(frequency * angle), 0.0)
