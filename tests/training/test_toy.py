"""The MLP learns points in the plane: what it draws is close to the data, in a stated distance."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from helpers.runs import TOY
from tinyddpm.backend import load_backend
from tinyddpm.conditions import Asked
from tinyddpm.data import open_dataset
from tinyddpm.model.load import load_model
from tinyddpm.model.sampling import draw
from tinyddpm.progress import Progress
from tinyddpm.training.run import start

pytestmark = pytest.mark.slow

N = 4000


def sliced_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 between two equally large sets of points, averaged over 60 directions (Bonneel et al. 2015)."""
    angles = np.linspace(0, np.pi, 60, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    return float(np.abs(np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)).mean())


@pytest.mark.parametrize("source", ["mixture", "swiss-roll"])
def test_mlp_draws_the_plane_it_was_trained_on(source: str, tmp_path: Path) -> None:
    """Samples lie within 0.06 of fresh data, whose spread is 1; noise lies beyond 0.14, other data within 0.05.

    And they lie where the data lie, which the projections might miss: all but 5 % of them are nearer to a data point
    than the data's own 99.5 % quantile of such distances, which noise exceeds for more than a third of the points.
    """
    config = TOY.updated({"data": {"source": source}, "schedule": {"timesteps": 50}})
    backend = load_backend("numpy")
    start(config, backend, tmp_path / "run", Progress(StringIO()))
    model, weights, _ = load_model(tmp_path / "run", backend)
    numbers = np.arange(N)
    drawn = draw(model, weights, numbers, Asked(numbers), seed=1, sampling=config.sampling, batch_size=N).values

    test = open_dataset(source, split="test")
    data, fresh, reference = (test.read(np.arange(k * N, (k + 1) * N)) for k in range(3))
    noise = np.random.default_rng(0).standard_normal((N, 2))
    assert sliced_wasserstein(data, fresh) < 0.05
    assert sliced_wasserstein(noise, data) > 0.14
    assert sliced_wasserstein(drawn, data) < 0.06

    reach = np.quantile(nearest(fresh, reference), 0.995)
    assert np.mean(nearest(noise, reference) > reach) > 1 / 3
    assert np.mean(nearest(drawn, reference) > reach) < 0.05


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The distance from each point of a to the nearest of b."""
    return np.sqrt(np.stack([((point - b) ** 2).sum(1).min() for point in a]))
