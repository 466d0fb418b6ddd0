"""Algorithm 1: the gradient of L_simple is that of the loss it reports."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import array_api_strict
import numpy as np
import pytest

from helpers.comparison import assert_close
from helpers.strict import StrictBackend
from tinyddpm.backend import Backend, Random, load_backend
from tinyddpm.conditions import Conditioned
from tinyddpm.conditions.label import Label
from tinyddpm.data.base import ArrayDataset
from tinyddpm.diffusion.objectives import Simple
from tinyddpm.diffusion.parametrisation import make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.model.config import Config
from tinyddpm.nn import DropoutNoise, Layout, Widths
from tinyddpm.nn.mlp import MLP
from tinyddpm.ops import load_operations
from tinyddpm.ops.noising import Noised
from tinyddpm.ops.numba import sharing
from tinyddpm.testing import check_projection
from tinyddpm.training import host_step
from tinyddpm.training.assembly import make_trainer
from tinyddpm.training.device_step import DeviceStep
from tinyddpm.training.host_step import HostStep, workers_of
from tinyddpm.training.step import noised, training_gradient, training_losses

N = 6


class Problem:
    """A small MLP with random weights, in float64, on random points; the first is at t = 0."""

    def __init__(self, backend: Backend) -> None:
        rng = np.random.default_rng(1)
        self.network = Conditioned(MLP((2,), Widths(vector=8), 2, width=8, depth=1), Label((2,), 3, 8, null=False))
        self.layout = Layout(self.network.parameters)
        self.weights = rng.standard_normal(self.layout.size) * 0.4
        self.process = GaussianProcess(backend, np.linspace(0.01, 0.5, 10), dtype=np.float64)
        self.objective = Simple(make_parametrisation(self.process, "eps"), np.ones(10), "points")
        self.ops, self.training_ops = load_operations(backend), load_operations(backend, training=True)
        self.x_0, self.eps = rng.standard_normal((N, 2)), rng.standard_normal((N, 2))
        self.t, self.labels = np.array([0, 9, 3, 0, 7, 1]), np.array([0, 1, 2, 2, 1, 0])
        self.noise = DropoutNoise(Random(np, 0), 0, np.arange(N))

    def loss(self, weights: np.ndarray, at: slice = slice(None)) -> float:
        w = self.layout.views(weights, np)
        cond = {"label": self.labels[at]}
        return float(np.mean(training_losses(self.objective, self.network, self.ops, w, self.batch(at), cond)))

    def batch(self, at: slice) -> Noised:
        return noised(self.process, self.x_0[at], self.t[at], self.eps[at])

    def gradient(self, *parts: slice) -> tuple[float, np.ndarray]:
        total, gradient = 0.0, np.zeros_like(self.weights)
        w, dw = self.layout.views(self.weights, np), self.layout.views(gradient, np)
        for at in parts:
            share = len(self.t[at]) / N
            total += share * np.mean(
                training_gradient(
                    self.objective, self.network, self.training_ops, w, dw,
                    self.batch(at), {"label": self.labels[at]}, self.noise, share,
                )
            )  # fmt: skip
        return total, gradient


@pytest.fixture
def problem(numpy_backend: Backend) -> Problem:
    return Problem(numpy_backend)


def test_gradient_is_the_losss(problem: Problem, rng: np.random.Generator) -> None:
    loss, gradient = problem.gradient(slice(None))
    assert loss == problem.loss(problem.weights)
    value = lambda w: np.array([problem.loss(w)])  # noqa: E731
    check_projection(value, problem.weights, np.ones(1), gradient, rng)


def test_loss_is_the_papers(problem: Problem) -> None:
    """Eq. 14 written out sample by sample, element by element."""
    w = problem.layout.views(problem.weights, np)
    terms = []
    for x_0, t, eps, label in zip(problem.x_0, problem.t, problem.eps, problem.labels, strict=True):
        alpha_bar = np.prod(1 - problem.process.betas[: t + 1])
        x_t = np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * eps
        eps_hat, _ = problem.network.forward(problem.ops, w, x_t[None], np.array([t]), {"label": np.array([label])})
        terms.append((eps - eps_hat[0]) ** 2)
    assert problem.loss(problem.weights) == pytest.approx(np.mean(terms), rel=1e-12)


def test_parts_of_a_batch_add_up(problem: Problem) -> None:
    """Unequal parts, each counting its share, give the whole batch's loss and gradient."""
    loss, gradient = problem.gradient(slice(None))
    parts_loss, parts_gradient = problem.gradient(slice(0, 1), slice(1, 4), slice(4, 6))
    assert parts_loss == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(parts_gradient, gradient, rtol=1e-9, atol=1e-12)


def test_index_0_is_trained(problem: Problem) -> None:
    """A batch of t = 0 alone has a gradient."""
    problem.t[:] = 0
    assert np.abs(problem.gradient(slice(None))[1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True])
def test_any_backend_may_record_its_steps(flip: bool) -> None:
    """A backend that says so, of the reference operations alone, in the array API standard's terms, trains as NumPy's
    does, asked for one thing a step, at its end: six steps, clipped, losses and weights within float32's rounding.
    """

    class Recording(StrictBackend):
        graphs = True
        asked = 0

        def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
            self.asked += 1
            return super().to_numpy(array)

    images = ArrayDataset(np.random.default_rng(0).integers(0, 256, (23, 4, 6, 1), np.uint8), name="noise")
    config = Config.from_dict(
        {
            "data": {"source": "noise", "flip": flip},
            "network": {"channels": 4, "multipliers": [1], "blocks": 1, "attention": [], "dropout": 0.2},
            "schedule": {"timesteps": 30},
            "training": {
                "batch_size": 4, "threads": 1, "warmup": 2, "clip": 0.5, "learning_rate": 1e-3, "weight_decay": 0.1,
            },
        }
    )  # fmt: skip
    with array_api_strict.ArrayAPIStrictFlags(api_version="2023.12"):
        backend = Recording()
        ours, theirs = (make_trainer(config, b, images) for b in (backend, load_backend("numpy")))
        assert isinstance(ours.advance, DeviceStep)
        for _ in range(6):
            backend.asked = 0
            a, b = ours.train_step(), theirs.train_step()
            assert backend.asked == 1
            assert (a.loss, a.gradient_norm) == pytest.approx((b.loss, b.gradient_norm), rel=1e-5)
        for name, found, expected in zip(ours.state._fields, ours.state, theirs.state, strict=True):
            assert_close(np.asarray(found), expected, 2e-4, name)


@pytest.mark.parametrize(
    ("backend", "size", "batch_size", "workers"),
    [("numpy", 40_000_000, 8, 2), ("numpy", 100, 7, 1), ("numba", 100, 8, 2), ("numba", 40_000_000, 8, 1),
     ("numba", 40_000_000, 128, 2)],
)  # fmt: skip
def test_threads_share_a_batch_or_its_operations(backend: str, size: int, batch_size: int, workers: int) -> None:
    """Operations, where the backend can and the network is large beside a thread's share of the batch."""
    training = SimpleNamespace(batch_size=batch_size)
    model = SimpleNamespace(
        config=SimpleNamespace(training=training), workers=SimpleNamespace(threads=2),
        layout=SimpleNamespace(size=size), backend=load_backend(backend),
    )  # fmt: skip
    assert workers_of(cast(Any, model)) == workers


def test_whoever_shares_a_step_finds_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that share the batch, or all operations, however small: to rounding."""
    images = ArrayDataset(np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), np.uint8), name="noise")
    network = {"channels": 32, "multipliers": [1, 2], "blocks": 1, "attention": [12]}
    training = {"batch_size": 8, "threads": 2}
    config = Config.from_dict({"data": {"source": "noise"}, "network": network, "training": training})
    gradients = []
    for least in (host_step.PARAMETERS_PER_SAMPLE, 0):
        monkeypatch.setattr(host_step, "PARAMETERS_PER_SAMPLE", least)
        monkeypatch.setattr(sharing, "WORTH", 10_000_000 if least else 0)
        trainer = make_trainer(config, load_backend("numba"), images)
        assert isinstance(trainer.advance, HostStep)
        assert len(trainer.advance.gradients) == (2 if least else 1)
        trainer.weights[...] = np.random.default_rng(1).normal(0, 0.1, trainer.weights.size)
        trainer.advance.batch_gradient(0)
        gradients.append(trainer.advance.gradients[0])
    assert_close(gradients[1], gradients[0], 2e-5, "the gradient")
