"""Runs with other objectives: what is refused before they start, how times are drawn, and that they learn."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.runs import POINTS, config
from tinyddpm.backend import Purpose, load_backend
from tinyddpm.conditions import Asked
from tinyddpm.data.batching import batch_indices
from tinyddpm.errors import CheckpointError, ConfigError, RegistryError
from tinyddpm.model.load import load_model
from tinyddpm.model.sampling import draw
from tinyddpm.progress import Progress
from tinyddpm.training.assembly import make_trainer, open_data
from tinyddpm.training.host_step import read
from tinyddpm.training.run import start
from tinyddpm.training.step import noised, training_gradient

NUMPY = load_backend("numpy")

SETTINGS = config(POINTS, steps=60, learning_rate=1e-2, validate_every=30, save_every=60, sample_every=1000)

VLB = config(SETTINGS, loss="vlb", predict="v").updated({"schedule": {"timesteps": 4}})


def test_times_are_drawn_after_the_losses() -> None:
    """With vlb, once every time has ten losses, which it has not before: the next step's times are other than uniform.

    And threads change the rounding of the losses that are kept, alone.
    """
    dataset = open_data(config(VLB))
    trainers = [make_trainer(config(VLB, threads=k, batch_size=40), NUMPY, dataset) for k in (1, 2)]
    edges = []
    for _ in range(6):
        edges.append(trainers[0].law.edges().tolist())
        for trainer in trainers:
            trainer.train_step()
    assert edges[0] == edges[1] != edges[-2] != edges[-1]
    one, two = (trainer.law for trainer in trainers)
    np.testing.assert_array_equal(one.counts, 10)
    np.testing.assert_allclose(one.losses, two.losses, rtol=1e-3)


def test_drawn_times_count_the_less_the_likelier_they_are() -> None:
    """With a history of unequal losses: loss and gradient are the sums of each sample's own, 1 / (T p_t) times."""
    settings = config(VLB, batch_size=24, accumulate=3, threads=1)
    trainer = make_trainer(settings, NUMPY, open_data(settings))
    trainer.weights[:] = np.random.default_rng(0).standard_normal(trainer.weights.shape) * 0.1
    for _ in range(10):
        trainer.law.hear(np.arange(4), np.array([1.0, 30.0, 4.0, 10.0]))
    loss, lengths, (t, each) = trainer.advance.batch_gradient(0)
    weight = (1 / (4 * np.array([1, 30, 4, 10]) / 45))[t]
    assert loss == pytest.approx(np.mean(weight * each), rel=1e-2)  # p has a share that is uniform
    assert len(set(t)) > 2
    total = np.zeros_like(trainer.weights)
    model, places = trainer.model, batch_indices(len(trainer.train), 24, 0, 0)
    for n in range(24):
        slot = np.array([n])
        x_0 = read(model, trainer.train, places[slot])
        eps = NUMPY.random(0).normal(Purpose.NOISE, 0, slot, (2,))
        training_gradient(
            model.objective, model.network, trainer.ops, model.layout.views(trainer.weights, np),
            model.layout.views(total, np), noised(model.process, x_0, t[slot], eps), {}, None, weight[n] / 24,
        )  # fmt: skip
    assert np.linalg.norm(lengths) == pytest.approx(np.linalg.norm(total), rel=1e-2)
    np.testing.assert_allclose(trainer.advance.gradients[0], total, atol=1e-2 * np.abs(total).max())


def test_a_checkpoint_of_another_loss_has_no_history_to_go_on_with() -> None:
    trainer = make_trainer(config(VLB), NUMPY, open_data(config(VLB)))
    checkpoint = trainer.checkpoint({})
    checkpoint.history = None
    with pytest.raises(CheckpointError, match="lacks the losses that times are drawn after"):
        trainer.restore(checkpoint)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"training": {"predict": "epsilon"}}, r"unknown parametrisation 'epsilon'.*there are: .*eps"),
        ({"training": {"loss": "l2"}}, "unknown objective 'l2'"),
        ({"training": {"loss": "vlb"}, "weighting": {"name": "p2"}}, "the loss 'vlb' has weights of its own"),
        (
            {"schedule": {"zero_terminal_snr": True}},
            "parametrisation 'eps' says nothing of x_0 at t = 19, where alpha_bar is 0",
        ),
        (
            {"schedule": {"zero_terminal_snr": True}, "training": {"predict": "v"}},
            "weighting 'simple' weighs the error at t = 19 by 0",
        ),
        ({"weighting": {"name": "min-snr", "gama": 3.0}}, "did you mean 'gamma'"),
        ({"sampling": {"variance": "learned"}}, "this model has learned none"),
        *(
            (
                {
                    "schedule": {"zero_terminal_snr": True},
                    "training": {"predict": "v"},
                    "weighting": {"name": "uniform"},
                    "sampling": {"name": sampler, "steps": 5},
                },
                "the schedule ends with no signal: use ddim or ancestral",
            )
            for sampler in ("dpmpp-2m", "dpmpp-2m-sde", "heun", "unipc")
        ),
    ],
)
def test_objectives_that_cannot_be_are_refused_before_training(changes: dict[str, Any], line: str) -> None:
    wrong = config(SETTINGS).updated(changes)
    with pytest.raises((ConfigError, RegistryError), match=line):
        make_trainer(wrong, NUMPY, open_data(wrong))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["simple", "hybrid", "vlb"])
def test_v_learns_and_draws_from_a_chain_that_ends_without_signal(loss: str, tmp_path: Path) -> None:
    """The held-out loss falls, and the samples are finite numbers, from both samplers that need no signal at T − 1."""
    weighting = {} if loss == "vlb" else {"weighting": {"name": "uniform"}}
    tables = config(SETTINGS, loss=loss, predict="v").updated({"schedule": {"zero_terminal_snr": True}, **weighting})
    before = make_trainer(tables, NUMPY, open_data(tables)).validation_loss()
    start(tables, NUMPY, tmp_path / "run", Progress(StringIO()))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["validation_loss"] for line in lines if "validation_loss" in line][-1] < before
    model, weights, _ = load_model(tmp_path / "run", NUMPY)
    for sampler in ("ancestral", "ddim"):
        sampling = tables.updated({"sampling": {"name": sampler, "steps": 7}}).sampling
        samples = draw(model, weights, np.arange(5), Asked(np.arange(5)), seed=0, sampling=sampling, batch_size=5)
        assert np.isfinite(samples.values).all()
