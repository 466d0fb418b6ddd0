"""Learning rates: closed forms, the warm-up before them, and the steps that are taken with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.runs import DIGITS
from tinyddpm.backend import load_backend
from tinyddpm.data import open_dataset
from tinyddpm.errors import ConfigError, RegistryError
from tinyddpm.model.config import Config
from tinyddpm.training import rates
from tinyddpm.training.assembly import make_trainer
from tinyddpm.training.rates import learning_rates
from tinyddpm.training.trainer import Trainer


def config(rate: str = "constant", steps: int = 50, warmup: int = 0, **options: Any) -> Config:
    training = {"learning_rate": 0.5, "steps": steps, "warmup": warmup}
    return Config.from_dict({"training": training, "rate": {"name": rate, **options}})


@given(steps=st.integers(1, 300), warmup=st.integers(0, 400))
def test_constant_rises_in_a_line_and_stays(steps: int, warmup: int) -> None:
    """Over lengths and warm-ups: never 0, never above the rate, the full rate from step `warmup` − 1 on."""
    found = learning_rates(config(steps=steps, warmup=warmup))
    k = np.arange(1, steps + 1)
    assert found.shape == (steps,)
    np.testing.assert_array_equal(found == 0.5, k >= warmup)
    np.testing.assert_allclose(found, 0.5 * np.minimum(1, k / max(1, warmup)), rtol=1e-15)


@given(steps=st.integers(1, 200), last=st.floats(0, 1), at=st.integers(0, 199))
def test_linear_and_cosine_are_torchs(steps: int, last: float, at: int) -> None:
    """Over lengths, last shares and steps, by LinearLR and CosineAnnealingLR."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    at %= steps
    for ours, theirs in (
        (rates.linear, torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, last, steps)),
        (rates.cosine, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, last)),
    ):
        found = ours(steps, last=last)
        closed = getattr(theirs, "_get_closed_form_lr")  # noqa: B009 - what a chain of steps gives but for rounding
        theirs.last_epoch = at
        assert found[at] == pytest.approx(closed()[0], rel=1e-9, abs=1e-12)


def test_linear_and_cosine_fall_to_zero_by_default() -> None:
    np.testing.assert_allclose(rates.linear(4), [1.0, 0.75, 0.5, 0.25], rtol=1e-15)
    np.testing.assert_allclose(rates.cosine(4), [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2], rtol=1e-15)


def test_inverse_sqrt_is_edm2s() -> None:
    """Constant to `after`, then by 1/√k: half of it at four times as many steps."""
    found = rates.inverse_sqrt(1000, after=100)
    assert np.all(found[:100] == 1)
    assert found[399] == pytest.approx(0.5)
    np.testing.assert_allclose(found[99:] ** -2, np.arange(100, 1001) / 100, rtol=1e-12)


def test_a_rate_begins_after_its_warm_up() -> None:
    found = learning_rates(config("linear", steps=30, warmup=10, last=0.5))
    np.testing.assert_allclose(found[:10], 0.5 * np.arange(1, 11) / 10)
    np.testing.assert_allclose(found[10:], 0.5 * (1 - 0.5 * np.arange(20) / 20))


@pytest.mark.parametrize(
    ("rate", "options", "line"),
    [
        ("linear", {"last": 1.5}, "last is 1.5: give a share of the learning rate from 0 to 1"),
        ("cosine", {"last": -0.1}, "last is -0.1"),
        ("inverse-sqrt", {"after": 0}, "after is 0: give a number of steps from 1 on"),
        ("cosine", {"first": 1}, "first"),
    ],
)
def test_options_that_are_wrong(rate: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        learning_rates(config(rate, **options))


@pytest.mark.parametrize("broken", [np.zeros(49), np.full(50, np.nan), np.full(50, -1.0), np.zeros(50, np.float32)])
def test_a_table_of_no_rates_is_refused(broken: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "constant", lambda steps: broken)
    with pytest.raises(RegistryError, match=r"rate 'constant' gives .* it must give float64 of shape"):
        learning_rates(config())


def trainer(**training: Any) -> Trainer:
    settings = DIGITS.updated(
        {
            "network": {"channels": 4, "multipliers": [1], "attention": [], "dropout": 0.0, "groups": 2},
            "training": {"batch_size": 8, "warmup": 2, "steps": 8, **training},
            "rate": {"name": "cosine"},
        }
    )
    return make_trainer(settings, load_backend("numpy"), open_dataset("digits"))


def test_the_last_step_moves_as_little_as_its_rate_says() -> None:
    """A step of Adam whose moments are at rest moves a weight by the rate: the last ones by far less."""
    run, moved = trainer(), []
    for _ in range(8):
        before = np.array(run.weights)
        result = run.train_step()
        moved.append((np.abs(run.weights - before).max(), result.learning_rate))
    sizes, told = zip(*moved, strict=True)
    np.testing.assert_allclose(told, learning_rates(run.config), rtol=1e-15)
    assert told[-1] < 0.07 * max(told)
    assert sizes[-1] < 0.3 * max(sizes)


def test_matrices_alone_decay() -> None:
    """With gradients clipped to nothing, a step takes lr λ of each matrix and nothing of a bias or a norm's scale."""
    run = trainer(weight_decay=0.5, clip=1e-30, warmup=0)
    before = {path: np.array(view) for path, view in run.model.layout.views(run.weights, np).items()}
    for view in before.values():
        view += 1  # biases too are none of them 0
    run.weights[...] = np.concatenate([view.ravel() for view in before.values()])
    result = run.train_step()
    for path, view in run.model.layout.views(run.weights, np).items():
        share = 1 - result.learning_rate * 0.5 if before[path].ndim > 1 else 1.0
        np.testing.assert_allclose(view, share * before[path], rtol=1e-6, err_msg=path)
    assert result.learning_rate == 1e-2
