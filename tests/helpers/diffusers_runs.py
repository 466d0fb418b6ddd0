"""Small runs with random weights, and what diffusers and we make of the same input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.comparison import HostArray, assert_close
from tinyddpm.backend import Backend, Purpose, load_backend
from tinyddpm.conditions import Asked
from tinyddpm.exchange.run import Imported, write_run
from tinyddpm.model.config import Config
from tinyddpm.model.load import load_model
from tinyddpm.model.model import Model
from tinyddpm.testing import random_weights

NUMPY = load_backend("numpy")

NETWORK: dict[str, Any] = {
    "name": "unet",
    "channels": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention": [4],
    "groups": 4,
}


@dataclass(frozen=True)
class Case:
    """Settings of a small model of 8×8 images."""

    tables: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    shape: tuple[int, int, int] = (8, 8, 3)

    def model(self) -> Model:
        schedule = {"name": "linear", "timesteps": 40}
        tables = {"schedule": schedule, **self.tables, "network": {**NETWORK, **self.network}}
        return Model(Config.from_dict(tables), self.shape, self.classes, NUMPY)

    def run(self, folder: Path) -> Path:
        """A run with random weights, of which no layer is zero."""
        model = self.model()
        weights = {path: np.float32(w) for path, w in random_weights(model.layout, 3).items()}
        write_run(folder, Imported(model.config, self.shape, self.classes, weights, folder), {"from": "the test"})
        return folder


CASES = {
    "plain": Case(),
    "adaptive": Case({"schedule": {"name": "cosine", "timesteps": 50}}, {"adaptive": True, "head_channels": 4}),
    "classes": Case({"condition": {"dropout": 0.1}}, {"heads": 2, "multipliers": [1, 1]}, classes=("a", "b", "c")),
    "learned": Case(
        {"training": {"loss": "hybrid"}}, {"norm_eps": 1e-3, "blocks": 2, "attention": [8]}, shape=(8, 16, 1)
    ),
    "v": Case(
        {
            "training": {"predict": "v"},
            "schedule": {"name": "quadratic", "timesteps": 40, "zero_terminal_snr": True},
            "weighting": {"name": "uniform"},
        },
        {"halving": "around", "frequency_shift": 0.0},
    ),
    "blocks": Case(network={"resampling": "blocks", "multipliers": [1, 2, 1], "adaptive": True, "head_channels": 4}),
    "x_0": Case({"training": {"predict": "x_0"}, "schedule": {"name": "laplace", "timesteps": 40}}),
}

ALL = pytest.mark.parametrize("name", CASES)


def chw(x: HostArray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def hwc(x: torch.Tensor) -> HostArray:
    return np.moveaxis(x.detach().numpy(), 1, -1)


def ours(model: Model, flat: Any, x: HostArray, t: int, labels: HostArray | None) -> HostArray:
    """What our network makes of x at a time."""
    denoiser = model.network_denoiser(flat, Asked(labels))
    return denoiser._forward(x, np.full(len(x), t), *denoiser.given.values())[0]


def theirs(unet: Any, x: HostArray, t: int, labels: HostArray | None) -> HostArray:
    with torch.no_grad():
        return hwc(unet(chw(x), t, None if labels is None else torch.from_numpy(labels)).sample)


def assert_equal_outputs(
    run: Path, unet: Any, shape: tuple[int, ...], classes: int, T: int, backend: Backend = NUMPY
) -> None:
    rng = np.random.default_rng(1)
    x = np.float32(rng.normal(size=(3, *shape)))
    labels = rng.permutation(classes)[:3] if classes else None
    model, flat, _ = load_model(run, backend)
    for t in (0, 1, T // 3, T - 1):
        found, expected = ours(model, flat, x, t, labels), theirs(unet, x, t, labels)
        assert np.std(expected) > 0.1
        assert_close(found, expected, 1e-5, f"output at {t}")


class Noise:
    """Our noise of two samples, handed to a pipeline in the order that it asks for it."""

    def __init__(self, model: Model, times: list[int]) -> None:
        random = NUMPY.random(5)
        numbers, _ = random.on_device(0, np.arange(2))
        self.left: Iterator[HostArray] = iter(
            [
                random.normal(Purpose.SAMPLE_START, 0, numbers, model.sample_shape),
                *(random.normal(Purpose.SAMPLE_STEP, t, numbers, model.sample_shape) for t in times),
            ]
        )

    def __call__(self, shape: Any, **rest: Any) -> torch.Tensor:
        drawn = chw(next(self.left))
        assert drawn.shape == tuple(shape)
        return drawn


def drawn(run: Path, **sampling: Any) -> tuple[Model, HostArray]:
    model, flat, _ = load_model(run, NUMPY)
    chosen = model.config.updated({"sampling": sampling}).sampling
    *_, last = model.sample(flat, np.arange(2), Asked(None), 5, chosen)
    return model, last.x


def compare(pipeline: Any, model: Model, x: HostArray, **called: Any) -> None:
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, output_type="np", **called).images
    wanted = np.clip(x / 2 + 0.5, 0, 1)
    assert np.std(wanted) > 0.05
    np.testing.assert_allclose(images, wanted, atol=5e-5)
