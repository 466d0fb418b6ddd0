"""The beginning of a training step: rows of the data, some of them mirrored, with the noise of their times."""

from __future__ import annotations

import numpy as np
import pytest

from tinyddpm.backend import Backend, Purpose, Random, load_backend
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.ops import Operations

NUMPY = load_backend("numpy")
OPS = Operations(NUMPY)
PROCESS = GaussianProcess(NUMPY, make_betas("cosine", 9))
STEP, SAMPLES = 4, np.arange(3, 15)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 2), np.uint8)
POINTS = np.random.default_rng(1).normal(size=(12, 2)).astype(np.float32)


def test_images_are_drawn_mirrored_and_noised() -> None:
    """x_0 in [−1, 1] of the rows asked for, times and noise by the numbers of (seed, step, sample), x_t by eq. 4."""
    random, places = Random(np, 7), np.arange(12) % 5
    x_0, t, eps, x_t = OPS.noised(random, STEP, SAMPLES, IMAGES, PROCESS.levels, places, flip=True)
    mirrored = random.uniform(Purpose.FLIP, STEP, SAMPLES, ()) < 0.5
    assert 0 < mirrored.sum() < 12
    rows = [IMAGES[place][:, ::-1] if flip else IMAGES[place] for place, flip in zip(places, mirrored, strict=True)]
    np.testing.assert_allclose(x_0, np.stack(rows) / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(t, random.integers(Purpose.TIME, STEP, SAMPLES, (), 9))
    np.testing.assert_array_equal(eps, random.normal(Purpose.NOISE, STEP, SAMPLES, (2, 3, 2)))
    np.testing.assert_allclose(x_t, PROCESS.q_sample(x_0, t, eps), atol=1e-6)
    assert {array.dtype for array in (x_0, eps, x_t)} == {np.dtype(np.float32)}


def test_points_stay_as_they_are_and_times_may_be_given() -> None:
    """All rows in their order, none mirrored, where nothing else is said."""
    t = np.arange(12) % 9
    batch = OPS.noised(Random(np, 7), STEP, SAMPLES, POINTS, PROCESS.levels, t=t)
    np.testing.assert_array_equal(batch.x_0, POINTS)
    np.testing.assert_array_equal(batch.t, t)
    np.testing.assert_allclose(batch.x_t, PROCESS.q_sample(POINTS, t, batch.eps), atol=1e-6)
    images = OPS.x_0(Random(np, 7), STEP, np.arange(5), IMAGES)
    np.testing.assert_allclose(images, IMAGES / 127.5 - 1, atol=1e-6)


def test_other_backends_draw_the_same(other_backend: Backend) -> None:
    """By the reference, on their arrays."""
    with other_backend.scope():
        rows, places = other_backend.asarray(IMAGES), other_backend.asarray(np.arange(12) % 5)
        levels = tuple(map(other_backend.asarray, PROCESS.levels))
        found = Operations(other_backend).noised(other_backend.random(7), 4, SAMPLES, rows, levels, places, flip=True)
        expected = OPS.noised(Random(np, 7), STEP, SAMPLES, IMAGES, PROCESS.levels, np.arange(12) % 5, flip=True)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(other_backend.to_numpy(one), other, rtol=0, atol=2e-6)


def test_half_of_the_uniform_numbers_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those on a grid over [0, 1), the lower half."""
    grid = np.arange(4) / 4
    monkeypatch.setattr(Random, "uniform", lambda self, purpose, step, samples, shape: grid)
    x_0 = OPS.x_0(Random(np, 0), STEP, range(4), IMAGES[:4], flip=True)
    changed = (x_0 != OPS.x_0(Random(np, 0), STEP, range(4), IMAGES[:4])).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, [True, True, False, False])
