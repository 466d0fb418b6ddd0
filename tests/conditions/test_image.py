"""Smaller pictures as a condition: what is made of the samples, what is told of it, and runs that learn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import tinyddpm
from helpers.runs import DIGITS, config
from tinyddpm.backend import Backend, load_backend
from tinyddpm.conditions import Asked, Wish
from tinyddpm.conditions.image import Image
from tinyddpm.data import open_dataset
from tinyddpm.errors import ConfigError
from tinyddpm.face import Trained
from tinyddpm.model.model import Model
from tinyddpm.nn import Told
from tinyddpm.ops import load_operations
from tinyddpm.ops.images import bicubic, from_model, shrunk, to_model
from tinyddpm.testing import check_condition, random_weights
from tinyddpm.training.assembly import make_trainer

NUMPY = load_backend("numpy")
RNG = np.random.default_rng(3)
PICTURES = RNG.uniform(-1, 1, (3, 4, 4, 2)).astype(np.float32)
ENLARGES = DIGITS.updated(
    {
        "data": {"flip": True},
        "condition": {"name": "image", "dropout": 0.3},
        "network": {"channels": 4, "attention": [], "dropout": 0.0},
        "training": {"batch_size": 6},
    }
)


@pytest.mark.parametrize("columns", [{"image": PICTURES}, {"image": PICTURES, "level": np.asarray([0.0, 0.2, 1.0])}])
def test_keeps_the_contract(columns: dict[str, np.ndarray]) -> None:
    check_condition("image", Asked(None, columns))


@pytest.mark.parametrize("size", [(8, 10), (12, 5), (4, 5), (9, 7), (40, 3)])
def test_enlarges_as_pillow_does(size: tuple[int, int]) -> None:
    """Bicubic, on mode F, with its edges; also by no whole number, where the size stays, and with few pixels."""
    x = RNG.normal(size=(2, 4, min(5, size[1]), 3)).astype(np.float32)
    found = bicubic(x, *size)
    for i, image in enumerate(x):
        for c in range(3):
            channel = PIL.Image.fromarray(image[:, :, c])
            expected = channel.resize(size[::-1], PIL.Image.Resampling.BICUBIC)
            np.testing.assert_allclose(found[i, :, :, c], expected, rtol=1e-5, atol=5e-6)


def test_a_picture_is_the_mean_of_squares_in_eight_bits(other_backend: Backend) -> None:
    """Half a grey level is rounded up, on every backend."""
    images = RNG.integers(0, 256, (5, 6, 9, 2), np.uint8)
    expected = np.floor(images.reshape(5, 2, 3, 3, 3, 2).mean(axis=(2, 4)) + 0.5)
    np.testing.assert_array_equal(shrunk(images, 3), expected)
    halves = np.asarray([0, 0, 1, 1], np.uint8).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(shrunk(halves, 2), [[[[1]]]])
    theirs = Image((6, 9, 2), 0, 4, False, factor=3).observed(other_backend.xp, to_model(other_backend.asarray(images)))
    np.testing.assert_array_equal(from_model(other_backend.to_numpy(theirs["image"])), expected)
    np.testing.assert_array_equal(other_backend.to_numpy(theirs["level"]), np.zeros(5))


def test_levels_are_uniform_and_noise_is_normal() -> None:
    """Means, variances and their correlation with the level within 5 standard errors, of 20,000 grey samples."""
    n, ours = 20_000, Image((4, 4, 1), 0, 4, False, noise=0.3)
    x_0 = np.full((n, 4, 4, 1), 0.2, np.float32)
    found, clean = (ours.observed(np, x_0, *drawn) for drawn in ((NUMPY.random(1), 5, np.arange(n)), ()))
    level = found["level"].astype(float)
    assert level.min() >= 0
    assert level.max() < 0.3
    assert abs(level.mean() - 0.15) < 5 * 0.3 / np.sqrt(12 * n)
    assert abs(level.var() - 0.3**2 / 12) < 5 * 0.3**2 * np.sqrt(1 / 180 / n)
    there = level > 1e-3
    at = level[there, None, None, None]
    eps = (found["image"][there] - np.sqrt(1 - at**2) * clean["image"][there]) / at
    m = eps.size
    assert abs(eps.mean()) < 5 / np.sqrt(m)
    assert abs((eps**2).mean() - 1) < 5 * np.sqrt(2 / m)
    assert abs(np.mean(eps * (at - at.mean()))) < 5 * at.std() / np.sqrt(m)
    other = ours.observed(np, x_0, NUMPY.random(1), 6, np.arange(n))
    assert abs(np.corrcoef(level, other["level"])[0, 1]) < 5 / np.sqrt(n)


def test_a_clean_picture_is_told_at_level_0_and_the_null_at_1() -> None:
    ours = Image((8, 8, 2), 0, 6, True)
    w = random_weights(ours, 2)
    given = ours.read(Asked(None, {"image": PICTURES}))
    told, _ = ours.forward(load_operations(NUMPY), w, {**given, "level": np.asarray([0.0, 0.5, 1.0], np.float32)})
    np.testing.assert_allclose(told.image, bicubic(PICTURES.astype(float), 8, 8), rtol=1e-12)
    for level, vector in zip((0.0, 500.0, 1000.0), told.vector, strict=True):
        angles = level * 10000.0 ** (-np.arange(32) / 31)
        h = np.concatenate([np.sin(angles), np.cos(angles)]) @ w["image/dense_1/w"] + w["image/dense_1/b"]
        expected = h / (1 + np.exp(-h)) @ w["image/dense_2/w"] + w["image/dense_2/b"]
        np.testing.assert_allclose(vector, expected, rtol=1e-9)
    assert not given["level"].any()
    assert not ours.null["image"].any()
    assert ours.null["level"] == 1


@pytest.mark.parametrize(
    ("shape", "options", "line"),
    [
        ((2,), {}, "condition 'image' is for images, and the samples are points"),
        ((8, 6, 1), {"factor": 4}, "factor is 4: it must divide the height and the width, 8 and 6"),
        ((8, 6, 1), {"factor": 0}, "factor is 0"),
        ((8, 8, 1), {"noise": 1.0}, r"noise is 1.0: it must lie in \[0, 1\)"),
        ((8, 8, 1), {"noise": -0.1}, "noise is -0.1"),
    ],
)
def test_what_cannot_be_built_is_refused(shape: tuple[int, ...], options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Image(shape, 0, 4, False, **options)


def test_what_cannot_be_enlarged_is_refused() -> None:
    ours = Image((8, 8, 2), 0, 4, True)
    with pytest.raises(ConfigError, match="the pictures are 3x4x2, and the model enlarges 4x4x2"):
        ours.asked(Wish(images=np.zeros((1, 3, 4, 2), np.uint8)))
    with pytest.raises(ConfigError, match="give it some by `tinyddpm edit enlarge`"):
        ours.asked(Wish())
    with pytest.raises(ConfigError, match="trained without captions: leave --prompt out"):
        ours.asked(Wish(prompts=["red"]))
    with pytest.raises(ConfigError, match="there are no pictures to enlarge"):
        ours.read(Asked(None))


def test_training_makes_its_pictures_of_the_mirrored_samples() -> None:
    """What the network is told in a step is the picture of that step's x_0, as it was mirrored, at its own noise."""
    config = ENLARGES.updated({"condition": {"dropout": 0.0, "noise": 0.0}})
    trainer = make_trainer(config, NUMPY, open_dataset("digits"))
    model, told, seen = trainer.model, [], []
    forward, noised = model.condition.forward, trainer.ops.noised

    def told_of(ops: Any, w: Any, given: Any) -> tuple[Told, Any]:
        told.append(given)
        return forward(ops, w, given)

    def seen_by(*arguments: Any, **options: Any) -> Any:
        seen.append((noised(*arguments, **options), arguments[3]))
        return seen[-1][0]

    model.condition.forward, trainer.ops.noised = told_of, seen_by  # type: ignore[method-assign]
    for _ in range(3):
        trainer.train_step()
    mirrored = 0
    for given, (batch, data) in zip(told, seen, strict=True):
        np.testing.assert_array_equal(given["image"], to_model(shrunk(from_model(batch.x_0), 2)))
        mirrored += np.any(given["image"] != to_model(shrunk(data, 2)), axis=(1, 2, 3)).sum()
    assert 0 < mirrored < 18


def test_nothing_is_read_of_the_data() -> None:
    """No column lies in memory, and held-out samples are measured with clean pictures: twice the same."""
    trainer = make_trainer(ENLARGES, NUMPY, open_dataset("digits"))
    assert trainer.advance.columns == {}
    assert trainer.validation_loss() == trainer.validation_loss()


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_the_straight_one(tmp_path: Path) -> None:
    def trained(folder: Path, steps: int) -> Trained:
        tables = config(ENLARGES, steps=steps).to_dict()
        del tables["data"]
        more = {"labels": False, "flip": True, "sample_count": 2, "progress": False}
        return tinyddpm.train("digits", out=folder, **tables, **more)

    straight = trained(tmp_path / "a", 4)
    trained(tmp_path / "b", 2)
    resumed = tinyddpm.resume(tmp_path / "b", steps=4, progress=False)
    np.testing.assert_array_equal(straight._weights, resumed._weights)


def test_held_out_samples_are_shown_to_a_run() -> None:
    """What a run draws on its way is asked for by pictures of samples that it never learned from."""
    dataset = open_dataset("digits")
    model = Model(ENLARGES, (8, 8, 1), (), NUMPY)
    known = model.known(dataset, np.asarray([5, 2]))
    expected = to_model(shrunk(dataset.read(np.asarray([5, 2])), 2))
    np.testing.assert_array_equal(known.columns["image"], expected)
    asked = model.condition.asked(Wish(), known)
    np.testing.assert_array_equal(model.read(asked)["image"], expected)
    assert model.condition.words(asked) is None


@pytest.mark.slow
def test_numba_learns_the_same() -> None:
    """Two steps, with noise, mirrored and with the null: losses within 1e-5, and of held-out samples too."""
    pytest.importorskip("numba")
    ours, theirs = (make_trainer(ENLARGES, load_backend(name), open_dataset("digits")) for name in ("numpy", "numba"))
    for _ in range(2):
        assert theirs.train_step().loss == pytest.approx(ours.train_step().loss, rel=1e-5)
    assert theirs.validation_loss() == pytest.approx(ours.validation_loss(), rel=1e-5)
