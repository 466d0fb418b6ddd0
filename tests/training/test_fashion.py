"""A real training on all of Fashion-MNIST: run with pytest -m fashion where the data set is on disk."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from tinyddpm.backend import load_backend
from tinyddpm.conditions import Asked
from tinyddpm.data import open_dataset
from tinyddpm.errors import DataError
from tinyddpm.model.config import preset
from tinyddpm.model.load import load_model
from tinyddpm.model.sampling import draw
from tinyddpm.ops.images import to_model
from tinyddpm.progress import Progress
from tinyddpm.training.run import start

SETTINGS = {
    "network": {"channels": 16, "blocks": 1, "multipliers": [1, 2, 2], "dropout": 0.0},
    "schedule": {"timesteps": 200},
    "training": {
        "steps": 400,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "warmup": 50,
        "ema": 0.99,
        "validate_every": 150,
    },
    "sampling": {"count": 10, "steps": 20},
}


@pytest.mark.fashion
def test_a_small_unet_learns_clothes(tmp_path: Path) -> None:
    """400 steps bring the held-out loss from 1 to below 0.11, and samples look like the class they were drawn for.

    The mean of 60 samples correlates above 0.85 with the mean of the data, and a sample's correlation with the mean of
    its own class is, on average, at least 0.1 above that with the means of the others.
    """
    pytest.importorskip("numba")
    try:
        dataset = open_dataset("fashion-mnist")
    except DataError as error:
        pytest.skip(str(error))
    assert len(dataset) == 60_000
    config = preset("fashion-mnist").config.updated(SETTINGS)
    backend = load_backend("numba")
    start(config, backend, tmp_path / "run", Progress(StringIO()))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert losses[-1] < 0.11
    assert losses[-1] < losses[0]

    model, weights, _ = load_model(tmp_path / "run", backend)
    numbers = np.arange(60)
    drawn = draw(
        model, weights, numbers, Asked(numbers % 10), seed=0, sampling=config.sampling, batch_size=60, frames=False
    ).values
    some = np.arange(2000)
    assert dataset.labels is not None
    data, classes = to_model(dataset.read(some)).reshape(2000, -1), dataset.labels[some]
    images = to_model(drawn).reshape(60, -1)
    assert np.corrcoef(images.mean(0), data.mean(0))[0, 1] > 0.85
    means = np.stack([data[classes == k].mean(0) for k in range(10)])
    likeness = np.corrcoef(images, means)[:60, 60:]  # (sample, class)
    own = likeness[numbers, numbers % 10].mean()
    others = (likeness.sum() - own * 60) / (60 * 9)
    assert own > others + 0.1
