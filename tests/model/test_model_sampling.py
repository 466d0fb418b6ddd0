"""What a model draws, and for whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tinyddpm.backend import load_backend
from tinyddpm.conditions import Asked
from tinyddpm.errors import ConfigError, DrawingError
from tinyddpm.model.config import Config
from tinyddpm.model.model import Model
from tinyddpm.model.sampling import draw, on_host

NUMPY = load_backend("numpy")
CONFIG = Config.from_dict({"network": {"name": "mlp", "width": 8, "depth": 1}, "schedule": {"timesteps": 30}})


def model(classes: tuple[str, ...] = ("a", "b", "c")) -> Model:
    return Model(CONFIG, (2,), classes, NUMPY)


def weights(of: Model, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.3, of.layout.size).astype(np.float32)


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (None, "no class is given: give each sample one of the 3 classes, by --labels"),
        (np.array([0, 1, 2]), "labels of shape 3 for 2 samples: give one for each"),
        (np.array([[0], [1]]), "labels of shape 2x1 for 2 samples: give one for each"),
        (np.array([0, -1]), "label -1 is no class: give a number from 0 to 2"),
        (np.array([3, 0]), "label 3 is no class: give a number from 0 to 2"),
    ],
)
def test_labels_are_one_class_a_sample(labels: Any, line: str) -> None:
    by_class = model()
    with pytest.raises(ConfigError) as error:
        by_class.sample(weights(by_class), np.arange(2), Asked(labels), 0, CONFIG.sampling)
    assert str(error.value) == line


@pytest.mark.parametrize("labels", [None, np.array([7])])
def test_without_classes_labels_mean_nothing(labels: Any) -> None:
    plain = model(())
    *_, last = plain.sample(weights(plain), np.arange(2), Asked(labels), 0, CONFIG.sampling)
    *_, other = plain.sample(weights(plain), np.arange(2), Asked(np.zeros(2, int)), 0, CONFIG.sampling)
    assert np.array_equal(last.x, other.x)


def test_what_is_asked_for_is_one_row_a_sample() -> None:
    """Of any condition: here of one that reads another column than the labels."""
    network = {"name": "unet", "channels": 4, "multipliers": [1], "blocks": 1, "attention": [], "dropout": 0.0}
    config = CONFIG.updated({"network": network, "condition": {"name": "image", "factor": 2}})
    enlarging = Model(config, (4, 4, 1), (), NUMPY)
    asked = Asked(None, {"image": np.zeros((3, 2, 2, 1), np.uint8)})
    with pytest.raises(ConfigError, match=r"^3 conditions are given for 2 samples: give one for each$"):
        enlarging.sample(weights(enlarging), np.arange(2), asked, 0, config.sampling)


def test_a_wrong_option_is_refused_before_the_first_step() -> None:
    plain = model(())
    sampling = replace(CONFIG.sampling, name="ddim", options={"eta": 2.0})
    with pytest.raises(ConfigError, match=r"eta is 2\.0"):
        plain.sample(weights(plain), np.arange(2), Asked(None), 0, sampling)


@pytest.mark.filterwarnings("ignore:(overflow|invalid):RuntimeWarning")
def test_finite_weights_that_draw_nothing_finite_are_refused() -> None:
    plain = model(())
    huge = np.full(plain.layout.size, 1e30, np.float32)
    with pytest.raises(DrawingError, match="sample 0 of 2 is not finite: the weights are too large to draw with"):
        draw(plain, huge, np.arange(2), Asked(None), seed=0, sampling=CONFIG.sampling, batch_size=2)


def test_no_pixel_that_is_not_finite_becomes_black() -> None:
    unet = Config.from_dict({"network": {"name": "unet", "channels": 8, "multipliers": [1], "attention": []}})
    x = np.zeros((3, 4, 4, 1), np.float32)
    assert on_host(Model(unet, (4, 4, 1), (), NUMPY), x).dtype == np.uint8
    x[1, 2, 3] = np.nan
    with pytest.raises(DrawingError, match="sample 1 of 3 is not finite"):
        on_host(Model(unet, (4, 4, 1), (), NUMPY), x)
