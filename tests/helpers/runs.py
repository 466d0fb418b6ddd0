"""Configurations of tiny runs, from which a test changes what it is about, and what such a run leaves behind."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from tinyddpm.backend import load_backend
from tinyddpm.data import open_dataset
from tinyddpm.data.base import ArrayDataset, Dataset
from tinyddpm.model.checkpoint import Checkpoint, load_checkpoint
from tinyddpm.model.config import Config, preset
from tinyddpm.model.load import checkpoint_file, layout_of
from tinyddpm.progress import Progress


def config(of: Config, **training: Any) -> Config:
    """Return a configuration with some settings of its training changed."""
    return of.updated({"training": training})


POINTS = Config.from_dict(
    {
        "data": {"source": "moons", "labels": False},
        "network": {"name": "mlp", "width": 16, "depth": 1},
        "schedule": {"name": "cosine", "timesteps": 20},
        "training": {
            "steps": 12, "batch_size": 30, "learning_rate": 1e-3, "warmup": 4, "ema": 0.9,
            "log_every": 5, "validate_every": 4, "save_every": 5, "sample_every": 6,
        },
        "sampling": {"count": 10},
    }
)  # fmt: skip
"""Points in the plane. All that a run does it does within twelve steps, and seldom two things at one."""

UNET = {"name": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.2}
"""Two levels, a block in each, attention on the lower level of 8×8 pixels, and dropout."""

DIGITS = Config.from_dict(
    {
        "data": {"source": "digits"},
        "network": UNET,
        "schedule": {"name": "cosine", "timesteps": 20},
        "training": {"batch_size": 9, "learning_rate": 1e-2, "warmup": 0, "threads": 1},
        "sampling": {"name": "ddim", "steps": 4, "count": 4},
    }
)
"""Images of 8×8 pixels, by their class."""

IMAGES = POINTS.updated(
    {
        "data": {"source": "digits", "labels": True, "flip": True, "validation": 40},
        "network": UNET,
        "training": {"steps": 7, "batch_size": 9, "accumulate": 2, "sample_every": 1000},
    }
)
HYBRID = config(IMAGES, loss="hybrid")
"""Those, mirrored, each batch in two parts, logged, validated and saved as points are; and with a learned variance."""

WIDE = DIGITS.updated(
    {
        "data": {"labels": True},
        "network": {"channels": 32, "dropout": 0.1},
        "schedule": {"timesteps": 1000},
        "training": {"batch_size": 64, "learning_rate": 1e-3, "warmup": 50},
    }
)
"""The same with channels that fill the tiles of a GPU's kernels, and DDPM's length of the chain."""

PLANE = POINTS.updated(
    {
        "network": {"width": 8, "depth": 2},
        "training": {
            "steps": 100, "batch_size": 5, "learning_rate": 1e-2, "warmup": 0, "threads": 1,
            "average_lengths": "0.05,0.2",
        },
    }
)  # fmt: skip
PICTURES = DIGITS.updated(
    {
        "data": {"labels": True, "flip": True},
        "network": {"channels": 4, "attention": [3]},
        "training": {"batch_size": 3, "warmup": 2},
    }
)
"""The least that has it all, for CUDA's kernels where they run on the CPU: points, and images of 4×6 pixels."""

GUIDED = PICTURES.updated({"condition": {"dropout": 0.5}})
ADAPTIVE = GUIDED.updated({"network": {"adaptive": True}, "training": {"loss": "hybrid"}})
"""Those pictures for guidance; and by adaptive norms, with a learned variance."""

TOY = preset("toy").config.updated(
    {
        "training": {
            "steps": 2000, "batch_size": 256, "learning_rate": 2e-3, "ema": 0.998, "threads": 1,
            "sample_every": 9000, "save_every": 9000,
        },
        "sampling": {"count": 10},
    }
)  # fmt: skip
"""Points of the plane until they are learned, which takes some seconds."""


def data_of(settings: Config) -> Dataset:
    """Return the points that are asked for, or 23 pictures, 4×6, of four classes, and what is known of them."""
    if settings.network.name == "mlp":
        return open_dataset(settings.data.source)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (23, 4, 6, 1), np.uint8), rng.integers(0, 4, 23)
    return ArrayDataset(images, labels, columns=known_of(labels), name="noise")


def known_of(labels: Any) -> dict[str, Any]:
    """Return what is known of samples of these classes: captions, tokens, and smaller pictures."""
    captions = np.asarray(["red", "up up red", "", "a"], object)
    tokens = np.random.default_rng(1).normal(size=(4, 3, 2)).astype(np.float32)
    pictures = np.random.default_rng(2).uniform(-1, 1, (4, 2, 3, 1)).astype(np.float32)
    length = np.asarray([3, 1, 0, 2])
    return {
        "text": captions[labels],
        "tokens": tokens[labels],
        "length": length[labels],
        "image": pictures[labels],
    }


def quiet() -> Progress:
    """Return a progress that nobody reads."""
    return Progress(StringIO())


def loaded(run: Path) -> Checkpoint:
    """Return the checkpoint of a run, or of RUN@STEP, on NumPy."""
    return load_checkpoint(checkpoint_file(run), layout_of(load_backend("numpy")))


def losses(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics that a run has logged, without its speed."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "samples_per_second"} for line in lines]


def assert_same(a: Path, b: Path) -> None:
    """Weights, average, moments, step, state and every logged loss are equal to the last bit."""
    one, other = loaded(a), loaded(b)
    assert one.step == other.step
    assert one.state == other.state
    assert_same_arrays(one, other)
    assert losses(a) == losses(b)


def assert_same_arrays(one: Checkpoint, other: Checkpoint) -> None:
    for name in ("weights", "ema", "adam_m", "adam_v"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
    np.testing.assert_array_equal(one.history, other.history)
