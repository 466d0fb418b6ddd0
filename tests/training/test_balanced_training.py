"""Training where classes count alike: the weighted loss and its gradient, and the balanced order, resumed and cut."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuda.conftest import make_shim
from helpers.command_line import fails
from helpers.cuda_shim import ShimBackend
from helpers.runs import POINTS, assert_same_arrays, loaded
from tinyddpm.backend import load_backend
from tinyddpm.data.base import ArrayDataset
from tinyddpm.data.batching import batch_indices
from tinyddpm.progress import Progress
from tinyddpm.training import feed
from tinyddpm.training.assembly import make_trainer
from tinyddpm.training.device_step import DeviceStep
from tinyddpm.training.host_step import HostStep
from tinyddpm.training.run import resume, start
from tinyddpm.training.trainer import Trainer

NUMPY = load_backend("numpy")
SETTINGS = POINTS.updated(
    {
        "data": {"source": "made up", "labels": True, "validation": 4},
        "training": {
            "steps": 6, "batch_size": 10, "threads": 1, "learning_rate": 1e-2, "warmup": 0, "save_every": 3,
        },
        "sampling": {"count": 2},
    }
)  # fmt: skip
LABELS = np.repeat([0, 1, 2], [4, 10, 30])
DATA = ArrayDataset(np.random.default_rng(0).normal(size=(44, 2)), LABELS, ("a", "b", "c"), name="made up")


def trainer(balance: str, backend: Any = NUMPY, **training: Any) -> Trainer:
    config = SETTINGS.updated({"data": {"balance": balance}, "training": training})
    return make_trainer(config, backend, DATA)


def gradient(run: Trainer, step: int) -> tuple[float, np.ndarray[Any, Any]]:
    assert isinstance(run.advance, HostStep)
    rng = np.random.default_rng(1)
    run.weights[...] = rng.normal(0, 0.3, run.weights.size)
    loss, *_ = run.advance.batch_gradient(step)
    return loss, run.advance.gradients[0].copy()


@pytest.mark.parametrize("balance", ["weights", "1,5,0.5"])
@pytest.mark.parametrize("loss", ["simple", "hybrid"])
def test_the_loss_counts_by_class(balance: str, loss: str) -> None:
    """The loss is the mean of its samples' times what their classes count. Loss and gradient are the sums of those of
    each class alone, whose samples count 1 and all others 0.
    """
    run = trainer(balance, loss=loss)
    found, together = gradient(run, 2)
    labels = np.asarray(run.train.labels)
    counts = np.bincount(labels)
    each = 1 / counts if balance == "weights" else np.asarray([1, 5, 0.5])
    each = each * counts.sum() / (each * counts).sum()
    assert isinstance(run.advance, HostStep)
    _, _, (_, losses) = run.advance.batch_gradient(2)
    whose = labels[batch_indices(len(labels), 10, 2, run.config.seed)]
    assert found == pytest.approx(np.mean(each[whose] * losses), rel=1e-5)
    alone = [gradient(trainer(",".join("1" if k == c else "0" for k in range(3)), loss=loss), 2) for c in range(3)]
    # Alone, a class's weight is scaled to mean 1 over all samples: by n / n_c.
    scale = each * counts / counts.sum()
    assert found == pytest.approx(sum(s * value for s, (value, _) in zip(scale, alone, strict=True)), rel=1e-5)
    wanted = sum(s * part for s, (_, part) in zip(scale, alone, strict=True))
    np.testing.assert_allclose(together, wanted, rtol=0, atol=2e-6 * np.abs(together).max())
    plain = gradient(trainer("none", loss=loss), 2)[1]
    assert np.abs(together - plain).max() > 0.01 * np.abs(plain).max()


def test_weights_that_are_all_the_same_change_nothing() -> None:
    for ours, theirs in zip(gradient(trainer("3,3,3"), 1), gradient(trainer("none"), 1), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("cut", [{"threads": 2}, {"accumulate": 3}], ids=str)
@pytest.mark.parametrize("balance", ["weights", "order"])
def test_a_cut_batch_has_the_same_gradient(balance: str, cut: dict[str, int]) -> None:
    for ours, theirs in zip(gradient(trainer(balance, **cut), 4), gradient(trainer(balance), 4), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_balanced_order(tmp_path: Path) -> None:
    """To the straight run's weights, bit for bit. Of its sixty samples each class has twenty, though one class is seven
    times as large as another.
    """
    config = SETTINGS.updated({"data": {"balance": "order"}})
    for name, steps in (("straight", 6), ("stopped", 3)):
        start(config.updated({"training": {"steps": steps}}), NUMPY, tmp_path / name, Progress(StringIO()), DATA)
    resume(tmp_path / "stopped", Progress(StringIO()), steps=6, dataset=DATA)
    assert_same_arrays(loaded(tmp_path / "straight"), loaded(tmp_path / "stopped"))
    run = trainer("order")
    counts = np.bincount(np.concatenate([run.train.labels[run.advance.order(step)] for step in range(6)]))  # type: ignore[index]
    assert counts.tolist() == [20, 20, 20]


@pytest.mark.parametrize("balance", ["order", "weights"])
@pytest.mark.parametrize("share", [0.25, 0.0], ids=["whole", "batch by batch"])
def test_a_device_does_the_same(balance: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps to float32's rounding, accumulated, with the data set on the device and without."""
    make_shim("CPU, little shared memory")
    monkeypatch.setattr(feed, "SHARE", share)
    ours, theirs = (trainer(balance, backend, accumulate=2) for backend in (ShimBackend(), NUMPY))
    assert isinstance(ours.advance, DeviceStep)
    assert ours.advance.feed.whole == (share > 0)
    for _ in range(4):
        a, b = ours.train_step(), theirs.train_step()
        assert (a.loss, a.gradient_norm) == pytest.approx((b.loss, b.gradient_norm), rel=1e-5)


def test_a_wrong_balance_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for options, line in (
        (["--data", "mixture-1d", "--balance", "ordr"], "data.balance is 'ordr'"),
        (["--data", "digits", "--balance", "1,2"], "data.balance has 2 weights, and there are 10 classes"),
    ):
        assert line in fails("train", "--steps", "1", *options, "--out", tmp_path / "r")
        assert not (tmp_path / "r").exists()
