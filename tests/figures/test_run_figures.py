"""Figures of trained models: what is drawn, against closed forms and against what the library does elsewhere."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyddpm.backend import Purpose, load_backend
from tinyddpm.conditions import Asked
from tinyddpm.diffusion.denoiser import Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import cosine
from tinyddpm.errors import ConfigError
from tinyddpm.figures.content import branches, draw_endings, endings, leaving_times
from tinyddpm.figures.denoising import SingleStep, denoising, draw_denoising, draw_single_step, linear_error
from tinyddpm.figures.evaluation import draw_sweep
from tinyddpm.figures.likelihood import bands, draw_bound, draw_loss_by_time
from tinyddpm.model.config import Config
from tinyddpm.model.model import Model
from tinyddpm.samplers import make_sampler

NUMPY = load_backend("numpy")
PROCESS = GaussianProcess(NUMPY, cosine(40), np.float64)
CONFIG = Config.from_dict({"network": {"name": "mlp", "width": 8, "depth": 1}, "schedule": {"timesteps": 30}})


def test_the_linear_error_is_that_of_the_exact_denoiser_of_a_gaussian() -> None:
    """20,000 points of a correlated Gaussian, each predicted by its conditional mean: within five standard errors."""
    rng = np.random.default_rng(0)
    covariance, mean = np.array([[1.0, 0.7], [0.7, 0.6]]), np.array([3.0, -1.0])
    x_0 = rng.multivariate_normal(mean, covariance, 20_000)
    alpha_bar = np.array([0.9, 0.4, 0.02])
    found = linear_error(x_0, alpha_bar)
    for a, error in zip(alpha_bar, found, strict=True):
        x_t = a**0.5 * x_0 + (1 - a) ** 0.5 * rng.standard_normal(x_0.shape)
        gain = a**0.5 * covariance @ np.linalg.inv(a * covariance + (1 - a) * np.eye(2))
        squares = ((mean + (x_t - a**0.5 * mean) @ gain.T - x_0) ** 2).mean(axis=1)
        assert abs(squares.mean() - error) < 5 * squares.std() / len(squares) ** 0.5
    np.testing.assert_allclose(linear_error(x_0, np.array([0.0])), x_0.var(axis=0).mean())


def standard_normal(x_t: np.ndarray, t: int) -> Prediction:
    """The exact denoiser of N(0, I)."""
    x_0 = PROCESS.alpha_bar[t] ** 0.5 * x_t
    return Prediction(x_0, PROCESS.predict_eps(x_t, t, x_0))


def test_endings_part_where_they_leave_each_other() -> None:
    """For N(0, I), whose exact step back has the variance beta, x_0 | x_t is N(√ᾱ_t x_t, 1 − ᾱ_t), so two endings of
    one x_t differ by √(2 (1 − ᾱ_t)), and an ending's mean lies at √ᾱ_t x_t.
    """
    pairs = [*pairwise([*range(39, -1, -1), -1])]
    leave, starts, count, dimensions = [39, 30, 15, 3, 0], 30, 5, 20
    chains = branches(leave, starts, count)
    random = NUMPY.random(0)

    def noise(t: int, numbers: np.ndarray) -> np.ndarray:
        return random.normal(Purpose.SAMPLE_STEP, t, numbers, (dimensions,)).astype(np.float64)

    found = endings(
        PROCESS,
        standard_normal,
        make_sampler("ancestral", variance="large"),
        pairs,
        leave,
        (starts, count),
        random.normal(Purpose.SAMPLE_START, 0, chains.start, (dimensions,)).astype(np.float64),
        noise,
        chains,
    )
    assert found.shared.shape == (30, 5, 20)
    assert found.ends.shape == (30, 5, 5, 20)
    variance, n = 1 - PROCESS.alpha_bar[leave], starts * dimensions
    # The last step adds no noise, so that beta_0 is missing from every ending.
    expected = (2 * (variance - PROCESS.betas[0])) ** 0.5
    relative = 5 * (1 / (2 * n * (count - 1))) ** 0.5  # five standard errors of a standard deviation
    np.testing.assert_allclose(found.distance[:4], expected[:4], rtol=relative)
    assert found.distance[4] < 1e-12, "x_0 is settled by x at t = 0"
    off = found.ends.mean(axis=2) - PROCESS.alpha_bar[leave][:, None] ** 0.5 * found.shared
    assert (abs(off.mean(axis=(0, 2))) < 5 * (variance / (n * count)) ** 0.5 + 1e-6).all()


def test_chains_leave_at_times_that_are_visited() -> None:
    pairs = [(39, 30), (30, 10), (10, 2), (2, -1)]
    assert leaving_times(pairs, 2) == [39, 2]
    assert leaving_times(pairs, 9) == [39, 30, 10, 2]
    with pytest.raises(ConfigError, match="1 branching times: give at least 2"):
        leaving_times(pairs, 1)


def test_a_denoising_is_the_sampling_itself() -> None:
    """It starts from the sampler's noise, ends with its samples, and predicts what the denoiser does."""
    model = Model(CONFIG, (2,), (), NUMPY)
    weights = np.random.default_rng(0).normal(0, 0.3, model.layout.size).astype(np.float32)
    numbers, asked, sampling = np.arange(3, 7), Asked(None), model.config.sampling
    found = denoising(model, weights, numbers, asked, seed=5, sampling=sampling, columns=6)
    assert [*found.t] == [29, 23, 17, 12, 6, 0]
    *_, last = model.sample(weights, numbers, asked, 5, sampling)
    np.testing.assert_array_equal(found.samples, last.x)
    np.testing.assert_array_equal(found.x_t[0], NUMPY.random(5).normal(Purpose.SAMPLE_START, 0, numbers, (2,)))
    denoiser = model.denoiser(weights, asked, sampling)
    for t, x_t, x_0 in zip(found.t, found.x_t, found.x_0, strict=True):
        np.testing.assert_allclose(denoiser(x_t, t).x_0, x_0, rtol=1e-6)


def test_bands_hold_all_of_the_bound() -> None:
    """Whichever times it was estimated from: each term in one band, with its weight."""
    t = [0, 1, 4, 5, 20, 33, 39]
    steps = {"t": t, "weight": [1, 2, 2, 3, 10, 12, 10], "bits": [9.0, 1.0, 0.5, 0.25, 0.1, 0.05, 0.01]}
    found = bands(steps, 40)
    assert sum(found.values()) == pytest.approx(2 * 1 + 2 * 0.5 + 3 * 0.25 + 10 * 0.1 + 12 * 0.05 + 10 * 0.01)
    first, *_, last = found
    assert first.startswith("39 …")
    assert last.endswith("… 1")
    assert len(found) == 10


@pytest.mark.slow
def test_what_is_drawn_of_runs_is_what_was_computed(tmp_path: Path, drawn: list[Any]) -> None:
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (2, 3, 4, 4, 1)).astype(np.uint8)
    alpha_bar = PROCESS.alpha_bar[[0, 10, 39]]
    mse = rng.uniform(0.1, 1, (2, 6, 3))
    linear = np.array([0.1, 0.2, 0.3])
    found = SingleStep(alpha_bar, mse, np.array([0, 1, 2, 0, 1, 2]), ("a", "b", "c", "none"), linear, 0.5, 127.5)
    draw_single_step(found, tmp_path / "s.png", tiles, ["1", "2", "3"])
    draw_single_step(found._replace(labels=None, linear=None), tmp_path / "t.png")
    by_seed, by_class, shown = drawn[0].axes
    np.testing.assert_allclose(by_seed.lines[2].get_ydata(), 127.5 * mse.mean(axis=(0, 1)) ** 0.5)
    np.testing.assert_allclose(by_seed.lines[3].get_ydata(), 127.5 * linear**0.5)
    assert [line.get_label() for line in by_class.lines] == ["a", "b", "c"]
    np.testing.assert_allclose(by_class.lines[1].get_ydata(), 127.5 * mse[:, [1, 4]].mean(axis=(0, 1)) ** 0.5)
    assert shown.images
    assert drawn[1].axes[1].get_title() == "By sample"

    steps = {"t": [0, 3, 9], "mse_eps": [1.0, 0.5, 0.1], "mse_x_0": [0.1, 0.2, 0.9], "bits": [3.0, 1.0, 0.1]}
    draw_loss_by_time(steps, tmp_path / "l.png")
    assert [[*chart.lines[0].get_ydata()] for chart in drawn[2].axes] == [*steps.values()][1:]
    draw_bound(0.1, {"9 … 5": 0.4, "4 … 1": 1.5}, 1.0, tmp_path / "v.png", tiles, ["1", "2", "3"])
    bars = drawn[3].axes[1].patches
    assert [(round(bar.get_y(), 9), bar.get_height()) for bar in bars] == [(0, 0.1), (0.1, 0.4), (0.5, 1.5), (2, 1)]
    assert drawn[3].axes[1].get_title() == "The bound: 3 bits/dim"
    draw_bound(0.1, {"9 … 1": 1.9}, 1.0, tmp_path / "w.png")
    assert [axes.get_title() for axes in drawn[4].axes] == ["The bound: 3 bits/dim"]
    assert len([*tmp_path.iterdir()]) == 5


def test_a_sweep_has_its_floor_where_there_is_one(tmp_path: Path, drawn: list[Any]) -> None:
    draw_sweep("guidance", [1.0, 2.0], {"a": [3.0, 4.0], "b": [5.0, 6.0]}, {"b": 0.5}, tmp_path / "s.png")
    lines = [[[*line.get_ydata()] for line in chart.lines] for chart in drawn[0].axes]
    assert lines == [[[3.0, 4.0]], [[5.0, 6.0], [0.5, 0.5]]]


def test_pictures_of_chains(tmp_path: Path, drawn: list[Any]) -> None:
    """As many rows and columns as there are samples, moments, times to leave and endings."""
    from tinyddpm.figures.content import Endings
    from tinyddpm.figures.denoising import Denoising

    rng = np.random.default_rng(0)
    draw_denoising(
        Denoising([9, 4], *rng.normal(size=(2, 2, 3, 4, 4, 1)), rng.normal(size=(3, 4, 4, 1))), tmp_path / "d.png"
    )
    assert [len(drawn[0].axes[0].get_xticklabels()), len(drawn[0].axes[0].get_yticklabels())] == [3, 6]
    ends = Endings([9, 4], rng.normal(size=(1, 2, 4, 4, 1)), rng.normal(size=(1, 2, 5, 4, 4, 1)))
    draw_endings(ends, 127.5, tmp_path / "e.png")
    pictures, chart = drawn[1].axes
    assert [len(pictures.get_xticklabels()), len(pictures.get_yticklabels())] == [6, 2]
    pairs = [(ends.ends[0, :, i] - ends.ends[0, :, j]) ** 2 for i in range(5) for j in range(i)]
    np.testing.assert_allclose(chart.lines[0].get_ydata(), 127.5 * np.mean(pairs, axis=(0, 2, 3, 4)) ** 0.5)
