"""Straightness of the flow against closed forms: a point's is 0, a Gaussian's (2 − π/2) times its deviation."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.flow import refused
from tinyddpm.backend import Purpose, load_backend
from tinyddpm.conditions import Asked
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.figures.straightness import Bends, bends, straightness, straightness_chart
from tinyddpm.model.config import Config
from tinyddpm.model.model import Model
from tinyddpm.samplers import ddim, heun, trailing_pairs

NUMPY = load_backend("numpy")
MEAN = np.array([0.7, -0.2, 0.0])
DEVIATION = np.array([0.5, 0.1, 1.3])
SCHEDULES = ["flow", "cosine", "linear"]


def chain(schedule: str, T: int = 1024) -> GaussianProcess:
    """A chain that ends without signal, so at τ = 1."""
    return GaussianProcess(NUMPY, zero_terminal_snr(make_betas(schedule, T)), np.float64)


def gaussian(process: GaussianProcess, deviation: np.ndarray) -> Denoiser:
    """The exact denoiser of independent numbers N(MEAN, deviation²)."""

    def denoise(x_t: np.ndarray, t: int) -> Prediction:
        alpha_bar = process.alpha_bar[t]
        gain = alpha_bar**0.5 * deviation**2 / (alpha_bar * deviation**2 + 1 - alpha_bar)
        x_0 = MEAN + gain * (x_t - alpha_bar**0.5 * MEAN)
        return Prediction(x_0, process.predict_eps(x_t, t, x_0))

    return denoise


def followed(schedule: str, deviation: np.ndarray, steps: int) -> Bends:
    """The paths from ξ = (1, 1, 1) and from (2, −2, 2)."""
    process, x = chain(schedule), np.array([[1.0, 1.0, 1.0], [2.0, -2.0, 2.0]])
    pairs = trailing_pairs(process.T, steps)
    return bends(process, x, heun(process, gaussian(process, deviation), x, pairs, refused, over="tau"))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_paths_to_a_point_are_straight(schedule: str) -> None:
    found = followed(schedule, np.zeros(3), 20)
    np.testing.assert_allclose(found.off, 0, atol=1e-20)
    np.testing.assert_allclose(found.total, 0, atol=1e-20)
    np.testing.assert_allclose(found.line, [np.mean((1 - MEAN) ** 2), np.mean((np.array([2, -2, 2]) - MEAN) ** 2)])


@pytest.mark.parametrize(("schedule", "order", "within"), [("flow", 2, 2e-5), ("cosine", 1, 1e-3), ("linear", 1, 2e-3)])
def test_paths_to_a_gaussian_bend_by_the_closed_form(schedule: str, order: int, within: float) -> None:
    """S = (2 − π/2) s ξ², mean over dimensions; at each τ the square of (g'(τ) − (1 − s)) ξ. Errors fall with the steps
    at the second order, or, where the chain's own last step to the data is long in τ, at the first."""
    expected, errors = (2 - np.pi / 2) * DEVIATION.mean() * np.array([1.0, 4.0]), []
    for steps in (64, 128, 256, 512, 1024):
        found = followed(schedule, DEVIATION, steps)
        errors.append(np.abs(found.total / expected - 1).max())
    assert errors[-1] < within
    assert np.all(-np.diff(np.log2(errors)) > 0.95 * order)

    tau = found.tau[:, None]
    g = np.sqrt((1 - tau) ** 2 * DEVIATION**2 + tau**2)
    slope = (tau - (1 - tau) * DEVIATION**2) / g
    np.testing.assert_allclose(found.off[:, 0], np.mean((slope - (1 - DEVIATION)) ** 2, axis=1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.line[0], np.mean((1 - MEAN - DEVIATION) ** 2), rtol=1e-3)


def test_a_model_is_followed_as_it_samples() -> None:
    """In batches as all at once, and each sample from its own noise."""
    tables = {"network": {"name": "mlp", "width": 8, "depth": 1}, "schedule": {"timesteps": 30, "name": "flow"}}
    model = Model(Config.from_dict(tables), (2,), (), NUMPY)
    weights = np.random.default_rng(0).normal(0, 0.3, model.layout.size).astype(np.float32)
    sampling = Config.from_dict({"sampling": {"name": "ddim", "steps": 10}}).sampling
    asked, numbers = Asked(np.zeros(5, int)), np.arange(5)
    whole, parts = (
        straightness(model, weights, numbers, asked, seed=3, sampling=sampling, batch_size=size) for size in (5, 2)
    )
    x = NUMPY.random(3).normal(Purpose.SAMPLE_START, 0, numbers, (2,))
    denoiser = model.denoiser(weights, asked, sampling)
    alone = bends(model.process, x, ddim(model.process, denoiser, x, model.pairs(sampling), refused))
    for found in (parts, alone):
        np.testing.assert_allclose(found.off, whole.off, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.total, whole.total, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(found.tau, whole.tau)
    assert whole.total.min() > 0.01
    line = straightness_chart({"run": whole}).lines[0]
    assert (line.name, line.points[0]) == ("run", sorted(whole.tau))
    np.testing.assert_allclose(line.points[1][::-1], whole.off.mean(axis=1))
