"""Steps and what they come to: whatever the batch's parts, threads and backend; and samples of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.runs import HYBRID, IMAGES, POINTS, config, losses, quiet
from tinyddpm.backend import Backend, load_backend
from tinyddpm.backend.numpy_backend import NumpyBackend
from tinyddpm.conditions import Asked, some
from tinyddpm.data import open_dataset
from tinyddpm.errors import ConfigError, DataError, TrainingError
from tinyddpm.model.config import Config
from tinyddpm.model.load import load_model
from tinyddpm.model.sampling import draw
from tinyddpm.progress import Progress
from tinyddpm.training.assembly import make_trainer, open_data
from tinyddpm.training.run import start

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")


def test_short_training_on_digits_learns(tmp_path: Path) -> None:
    """50 steps of a small U-Net bring the held-out loss from 1 (it starts by predicting 0) to below 0.45."""
    settings = config(IMAGES, steps=50, batch_size=64, accumulate=1, learning_rate=5e-3, validate_every=50).updated(
        {"schedule": {"timesteps": 50}, "data": {"flip": False, "validation": 256}}
    )
    trainer = make_trainer(settings, NUMPY, open_data(settings))
    before = trainer.validation_loss()
    outcome = start(settings, NUMPY, tmp_path / "run", quiet())
    after = [line["validation_loss"] for line in losses(tmp_path / "run") if "validation_loss" in line][-1]
    assert before == pytest.approx(1.0, abs=0.05)
    assert after < 0.45
    assert [path.name for path in outcome.pictures] == ["samples.png", "denoising.gif"]
    assert all(path.stat().st_size > 1000 for path in outcome.pictures)


def test_labels_and_batch_sizes_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="there are no labels in"):
        make_trainer(POINTS.updated({"data": {"source": "ring", "labels": True}}), NUMPY, open_dataset("ring"))
    with pytest.raises(DataError, match="a batch of 30000 is more than the"):
        make_trainer(config(POINTS, batch_size=30_000), NUMPY, open_data(POINTS))


def test_times_are_uniform_and_reach_both_ends() -> None:
    """Index 0 is trained: t is uniform on 0 … T − 1. Chi-squared over T = 20 cells and 30,000 draws, at 1e-6 (68.1)."""
    trainer = make_trainer(POINTS, NUMPY, open_data(POINTS))
    drawn = np.concatenate([trainer.law.draw(trainer.advance.random, step, np.arange(30))[0] for step in range(1000)])
    counts = np.bincount(drawn, minlength=20)
    assert len(counts) == 20
    assert ((counts - 1500) ** 2 / 1500).sum() < 68.1


def test_accumulated_gradient_is_the_whole_batchs(tmp_path: Path) -> None:
    """Dropout masks, flips, times and noise belong to samples, so cutting the batch changes rounding alone."""
    dataset = open_data(IMAGES)
    whole, cut = (make_trainer(config(IMAGES, accumulate=k), NUMPY, dataset) for k in (1, 4))
    rng = np.random.default_rng(0)
    whole.weights[:] = cut.weights[:] = rng.standard_normal(whole.weights.shape) * 0.1
    a, b = whole.train_step(), cut.train_step()
    assert a.loss == pytest.approx(b.loss, rel=1e-5)
    expected, found = whole.advance.gradients[0], cut.advance.gradients[0]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_threads_change_rounding_alone(accumulate: int) -> None:
    """One to three threads give the same step, to rounding; and the same number of threads the same bits, each time."""
    dataset = open_data(IMAGES)
    settings = {"accumulate": accumulate, "batch_size": 26}
    trainers = [make_trainer(config(IMAGES, threads=k, **settings), NUMPY, dataset) for k in (1, 2, 3, 3)]
    initial = np.random.default_rng(0).standard_normal(trainers[0].weights.shape) * 0.1
    for trainer in trainers:
        trainer.weights[:] = initial
        trainer.ema[:] = initial
    one, two, three, again = (trainer.train_step() for trainer in trainers)
    assert two.loss == pytest.approx(one.loss, rel=1e-5)
    assert three.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    assert three == again
    assert trainers[2].weights.tobytes() == trainers[3].weights.tobytes()
    assert trainers[1].validation_loss() == pytest.approx(trainers[0].validation_loss(), rel=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    start(config(IMAGES, learning_rate=1e-2), NUMPY, folder, quiet())
    return folder


def test_a_sample_is_the_same_in_any_batch(trained: Path) -> None:
    """Images as uint8 are equal, but that a product's rounding may differ by batch: at most one level, rarely."""
    model, weights, _ = load_model(trained, NUMPY)
    numbers, asked = np.arange(3, 14), Asked(np.arange(3, 14) % 10)
    options = {"seed": 5, "sampling": model.config.sampling}
    together = draw(model, weights, numbers, asked, batch_size=11, **options).values
    for batch_size in (1, 4):
        apart = draw(model, weights, numbers, asked, batch_size=batch_size, **options).values
        difference = np.abs(apart.astype(int) - together)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01
    tail = draw(model, weights, numbers[7:], some(asked, slice(7, None)), batch_size=2, **options).values
    assert np.abs(tail.astype(int) - together[7:]).max() <= 1
    other = draw(model, weights, numbers, asked, batch_size=11, seed=6, sampling=model.config.sampling).values
    assert (other != together).mean() > 0.5


def test_average_and_raw_weights_differ(trained: Path) -> None:
    _, ema, checkpoint = load_model(trained, NUMPY)
    _, raw, _ = load_model(trained, NUMPY, raw=True)
    assert np.array_equal(raw, checkpoint.weights)
    assert not np.array_equal(raw, ema)


def test_frames_end_with_the_samples(trained: Path) -> None:
    model, weights, _ = load_model(trained, NUMPY)
    samples = draw(
        model,
        weights,
        np.arange(4),
        Asked(np.arange(4)),
        seed=0,
        sampling=model.config.sampling,
        batch_size=3,
        frames=True,
    )
    assert len(samples.frames) == 20
    assert np.array_equal(samples.frames[-1], samples.values)
    assert samples.frames[0].shape == samples.values.shape == (4, 8, 8, 1)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(POINTS, id="points"),
        pytest.param(IMAGES, id="images"),
        pytest.param(HYBRID, id="hybrid"),
    ],
)
def test_other_backends_train_and_draw_as_numpy_does(settings: Config, other_backend: Backend) -> None:
    """The same seed: losses of the first steps and the samples agree to float32 rounding, its growth included."""
    dataset = open_data(settings)
    ours, theirs = (make_trainer(settings, backend, dataset) for backend in (NUMPY, other_backend))
    for _ in range(5):
        a, b = ours.train_step(), theirs.train_step()
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-3)
    assert ours.validation_loss() == pytest.approx(theirs.validation_loss(), rel=1e-4)
    options = {"seed": 0, "sampling": ours.config.sampling, "batch_size": 3}
    mine, other = (draw(t.model, t.ema, np.arange(5), Asked(np.arange(5)), **options).values for t in (ours, theirs))
    tolerance = 1 if mine.dtype == np.uint8 else 1e-3
    assert np.abs(mine.astype(float) - other).max() <= tolerance


class LittleMemory(NumpyBackend):
    """Has no room for more than so many points at a time."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.points = points

    def asarray(self, values: Any, dtype: Any = None) -> Any:
        if np.ndim(values) == 2 and len(values) > self.points:
            raise MemoryError
        return super().asarray(values, dtype)


def test_memory_that_runs_out_says_what_would_fit(tmp_path: Path) -> None:
    """The advice, taken as often as it is given, ends with a run that fits; one sample cannot be cut any further."""
    settings = config(POINTS, steps=1, threads=1).updated({"data": {"validation": 10}})
    for accumulate, at_a_time in ((1, 15), (2, 8)):
        cut = settings.updated({"training": {"accumulate": accumulate}})
        with pytest.raises(TrainingError, match=r"^out of memory on numpy .* GiB in use: .* --batch-size") as raised:
            start(cut, LittleMemory(10), tmp_path / f"{accumulate}", Progress())
        line = str(raised.value)
        assert f"keep the batch of 30: --accumulate {2 * accumulate} takes {at_a_time} at a time" in line
        assert "\n" not in line
    cut = settings.updated({"training": {"accumulate": 4}})
    assert start(cut, LittleMemory(10), tmp_path / "fits", Progress()).complete
    with pytest.raises(TrainingError, match=r"^out of memory") as raised:
        start(settings.updated({"training": {"batch_size": 1}}), LittleMemory(0), tmp_path / "never fits", Progress())
    assert "--accumulate" not in str(raised.value)
