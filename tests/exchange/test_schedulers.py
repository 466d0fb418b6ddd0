"""Schedules out to the schedulers of diffusers and in again. No library of theirs is needed for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinyddpm.backend import load_backend
from tinyddpm.errors import ConfigError
from tinyddpm.exchange.diffusers_scheduler import UNBOUNDED, read_scheduler, scheduler_config
from tinyddpm.model.config import Config
from tinyddpm.model.model import Model


def made(tables: dict[str, Any]) -> Model:
    """A small model with such settings."""
    network = {"name": "unet", "channels": 4, "multipliers": [1], "blocks": 1, "attention": []}
    return Model(Config.from_dict({**tables, "network": network}), (2, 2, 1), (), load_backend("numpy"))


OF_OTHER_ENDS: list[dict[str, Any]] = [
    {"name": "linear", "timesteps": 40, "rescale": False},
    {"name": "quadratic", "timesteps": 40, "beta_start": 8.5e-4, "beta_end": 0.012},
]


@pytest.mark.parametrize("precise", [True, False])
@pytest.mark.parametrize(
    "schedule",
    [
        *({"name": name, "timesteps": 50} for name in ("linear", "quadratic", "cosine", "sigmoid-alpha", "flow")),
        *OF_OTHER_ENDS,
    ],
    ids=str,
)
def test_schedules_come_back_by_name(schedule: dict[str, Any], precise: bool) -> None:
    """Also of a table that is float32's: without options where they are the defaults, else with the two ends."""
    model = made({"schedule": schedule})
    config = scheduler_config(model)
    if not precise:
        config["trained_betas"] = np.float32(model.process.betas).tolist()
    found, wrong, _ = read_scheduler(config, learned=False)
    assert wrong == []
    back = made(found)
    assert (back.config.schedule.name, back.process.T) == (schedule["name"], schedule["timesteps"])
    assert bool(back.config.schedule.options) == (schedule in OF_OTHER_ENDS)
    np.testing.assert_allclose(back.process.betas, model.process.betas, rtol=1e-12 if precise else 1e-6)


@pytest.mark.parametrize(
    ("said", "predict"),
    [
        ({}, "eps"),
        ({"predict_epsilon": True}, "eps"),
        ({"predict_epsilon": False}, "x_0"),
        ({"predict_epsilon": False, "prediction_type": "v_prediction"}, "v"),
    ],
)
def test_what_is_predicted_is_read_from_older_files_too(said: dict[str, Any], predict: str) -> None:
    tables, wrong, _ = read_scheduler(said, learned=False)
    assert wrong == []
    assert tables["training"]["predict"] == predict
    assert tables["weighting"]["name"] == ("simple" if predict == "eps" else "uniform")


def test_what_is_missing_or_strange_is_said() -> None:
    """A variance that is not said is the network's, or DDPM's smaller one; another library's sampler is replaced."""
    assert read_scheduler({"num_train_timesteps": "many", "clip_sample": 1}, learned=False) == (
        {},
        ["num_train_timesteps is 'many'", "clip_sample is 1"],
        [],
    )
    for learned, variance in ((True, "learned"), (False, "small")):
        tables, wrong, notes = read_scheduler({"_class_name": "PNDMScheduler"}, learned)
        assert (tables["sampling"]["variance"], wrong) == (variance, [])
        assert notes[1:] == ["the sampler of PNDMScheduler has no equivalent: ancestral sampling replaces it"]


@pytest.mark.parametrize(
    ("limit", "threshold", "told"),
    [
        (1.0, "static", []),
        (1.5, "dynamic", ["sample_max_value 1.5 has no equivalent: predictions of any size are scaled down"]),
        (UNBOUNDED, "dynamic", []),
    ],
)
def test_a_limit_of_the_dynamic_threshold_is_told(limit: float, threshold: str, told: list[str]) -> None:
    """At 1 it is the static threshold; a higher one, unless it is that of our export, does not exist here."""
    config = {"thresholding": True, "sample_max_value": limit, "timestep_spacing": "trailing"}
    tables, wrong, notes = read_scheduler(config, learned=False)
    assert (tables["sampling"]["threshold"], wrong, notes) == (threshold, [], told)


@pytest.mark.parametrize(
    "table", [[0.1, 0.2], [0.1, 0.2, 1], [0.1, 0.2, 0.1]], ids=["too few", "no number with a point", "no schedule"]
)
def test_a_table_that_is_no_schedule_has_no_equal(table: list[float]) -> None:
    _, wrong, _ = read_scheduler({"num_train_timesteps": 3, "trained_betas": table}, learned=False)
    assert wrong == [f"trained_betas is {table}"]


def test_betas_that_are_none_are_told_by_the_model() -> None:
    """They are taken over, so that the error is that of a configuration with them."""
    tables, wrong, _ = read_scheduler({"num_train_timesteps": 5, "beta_end": 2.0}, learned=False)
    assert wrong == []
    with pytest.raises(ConfigError, match="beta_end"):
        made(tables)
