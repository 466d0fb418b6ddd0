"""Training and sampling on an NVIDIA GPU: recorded or not, in every precision, beside NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.runs import WIDE, config
from tinyddpm.backend import Backend, load_backend
from tinyddpm.conditions import Asked
from tinyddpm.data import open_dataset
from tinyddpm.errors import BackendError
from tinyddpm.model.config import Config
from tinyddpm.model.sampling import draw
from tinyddpm.training import feed
from tinyddpm.training.assembly import make_trainer
from tinyddpm.training.trainer import Trainer

pytestmark = pytest.mark.gpu

SETTINGS = WIDE.updated({"sampling": {"name": "dpmpp-2m-sde", "steps": 20}})

ALL = SETTINGS.updated(
    {
        "data": {"flip": True, "balance": "weights", "tell_transforms": True},
        "transforms": {"colour": {"p": 0.5}, "shift": {"most": 1, "p": 0.5}, "crop": {"p": 0.5}},
        "network": {"resampling": "blocks", "adaptive": True, "head_channels": 16, "time_scale": 2.0, "norm_eps": 1e-5},
        "condition": {"dropout": 0.1},
        "training": {"weight_decay": 0.1, "average_lengths": "0.05,0.2", "accumulate": 2, "steps": 100},
        "rate": {"name": "cosine"},
        "weighting": {"name": "min-snr"},
    }
)
"""Whatever else a step can do: transforms, weights of classes and times, decay, averages, and blocks that halve."""


def gpu(precision: str = "fp32", graph: bool = True) -> Backend:
    try:
        return load_backend("cupy", precision=precision, graph=graph)
    except BackendError as error:
        pytest.skip(str(error))


def trainer(backend: Backend, settings: Config = SETTINGS, **training: Any) -> Trainer:
    return make_trainer(config(settings, **training), backend, open_dataset("digits"))


def losses(of: Trainer, steps: int) -> list[float]:
    return [of.train_step().loss for _ in range(steps)]


@pytest.mark.parametrize(("settings", "steps"), [(SETTINGS, 100), (ALL, 20)], ids=["plain", "all"])
def test_many_steps_are_numpys(settings: Config, steps: int) -> None:
    """The same seed, float32: losses within 1e-4 all the way, rounding's growth included."""
    ours, reference = trainer(gpu(), settings), trainer(load_backend("numpy"), settings)
    np.testing.assert_allclose(losses(ours, steps), losses(reference, steps), rtol=1e-4)


@pytest.mark.parametrize("settings", [SETTINGS, ALL], ids=["plain", "all"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_recorded_steps_are_those_that_are_not(precision: str, settings: Config) -> None:
    """Bit for bit, averages included: no kernel's result depends on timing, and nothing recorded stays as it was."""
    recorded, plain = (trainer(gpu(precision, graph), settings) for graph in (True, False))
    assert losses(recorded, 10) == losses(plain, 10)
    host = recorded.model.backend.to_numpy
    for ours, theirs in zip(recorded.state.buffers, plain.state.buffers, strict=True):
        assert host(ours).tobytes() == host(theirs).tobytes()


@pytest.mark.parametrize(("precision", "most"), [("tf32", 5e-3), ("bf16", 3e-2)])
def test_precisions_learn_the_same(precision: str, most: float) -> None:
    """Over the last ten of 150 steps, the mean loss is float32's to so much of itself."""
    found = np.mean(losses(trainer(gpu(precision)), 150)[-10:])
    expected = np.mean(losses(trainer(gpu()), 150)[-10:])
    assert abs(found / expected - 1) < most


def test_parts_of_a_batch_and_data_that_come_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch cut in four, read from the host step by step, is the same batch, to rounding."""
    whole = losses(trainer(gpu()), 5)
    monkeypatch.setattr(feed, "SHARE", 0.0)
    np.testing.assert_allclose(losses(trainer(gpu(), accumulate=4), 5), whole, rtol=1e-4)


def test_recorded_networks_draw_the_same() -> None:
    drawn = []
    for graph in (True, False):
        model = trainer(gpu(graph=graph)).model
        weights = np.random.default_rng(0).normal(0, 0.05, model.layout.size).astype(np.float32)
        numbers = np.arange(40)
        options = {"seed": 0, "sampling": model.config.sampling, "batch_size": 25}
        drawn.append(draw(model, model.backend.asarray(weights), numbers, Asked(numbers % 10), **options).values)
    np.testing.assert_array_equal(*drawn)
