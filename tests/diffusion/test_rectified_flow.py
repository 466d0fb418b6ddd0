"""Rectified flow is one schedule and one parametrisation: its Euler steps are DDIM's, and it learns a plane."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from helpers.runs import TOY
from tinyddpm.backend import Array, load_backend
from tinyddpm.conditions import Asked
from tinyddpm.data import open_dataset
from tinyddpm.diffusion.denoiser import Prediction
from tinyddpm.diffusion.parametrisation import make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess, noise_to_signal
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.model.load import load_model
from tinyddpm.model.sampling import draw
from tinyddpm.progress import Progress
from tinyddpm.samplers import ddim
from tinyddpm.samplers.spacings import trailing_pairs
from tinyddpm.training.run import start
from training.test_toy import sliced_wasserstein

NUMPY = load_backend("numpy")


def test_the_schedules_times_are_even() -> None:
    """Noise / signal is τ / (1 − τ) at τ = t/T, but at the last time, whose beta stays below 1."""
    alpha_bar = np.cumprod(1 - make_betas("flow", 100))
    tau = np.arange(1, 100) / 100
    np.testing.assert_allclose(noise_to_signal(alpha_bar[:-1]), tau / (1 - tau), rtol=1e-9)
    np.testing.assert_allclose(alpha_bar[-1], 0.001 * alpha_bar[-2], rtol=1e-9)


@pytest.mark.parametrize("schedule", ["flow", "flow without signal at the end", "cosine"])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_euler_on_the_flow_is_ddim(schedule: str, steps: int) -> None:
    """z ← z + (τ_prev − τ) F(z, τ) for a field F, z = x_t / (alpha + sigma), τ = sigma / (alpha + sigma), beside `ddim`
    on the denoiser that F makes: every step, to rounding, on any chain."""
    betas = make_betas(schedule.split()[0], 100)
    process = GaussianProcess(NUMPY, zero_terminal_snr(betas) if "without" in schedule else betas, dtype=np.float64)
    flow = make_parametrisation(process, "flow")
    rng = np.random.default_rng(0)
    A, x = rng.standard_normal((2, 2)), rng.standard_normal((5, 2))

    def field(x_t: np.ndarray, t: int) -> np.ndarray:
        return np.tanh(x_t @ A) - 0.01 * t * x_t

    def denoiser(x_t: Array, t: int) -> Prediction:
        return Prediction(*flow.implied(x_t, t, field(x_t, t)))

    def scale(t: int) -> tuple[float, float]:
        alpha, sigma = process.level(x, t)
        return alpha + sigma, sigma / (alpha + sigma)

    pairs = trailing_pairs(100, steps)
    z = x / scale(99)[0]
    for step, (t, t_prev) in zip(ddim(process, denoiser, x, pairs, lambda t: x), pairs, strict=True):
        (now, tau), (prev, tau_prev) = scale(t), scale(t_prev)
        z = z + (tau_prev - tau) * field(now * z, t)
        np.testing.assert_allclose(step.x, prev * z, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("predict", ["flow", "edm"])
def test_it_learns_a_plane(predict: str, tmp_path: Path) -> None:
    """Trained with errors of F that all count alike, 20 Euler steps draw points within 0.08 of fresh data, whose spread
    is 1; noise lies beyond 0.14. EDM's preconditioning and law of t do on the same schedule."""
    config = TOY.updated(
        {
            "data": {"source": "swiss-roll"},
            "schedule": {"name": "flow", "timesteps": 100},
            "training": {
                "predict": predict,
                "times": "log-normal" if predict == "edm" else "auto",
                "steps": 1000,
                "ema": 0.996,
            },
            "weighting": {"name": "uniform"},
            "sampling": {"name": "ddim", "steps": 20},
        }
    )
    start(config, NUMPY, tmp_path / "run", Progress(StringIO()))
    model, weights, _ = load_model(tmp_path / "run", NUMPY)
    numbers = np.arange(4000)
    drawn = draw(model, weights, numbers, Asked(numbers), seed=1, sampling=config.sampling, batch_size=4000).values
    data = open_dataset("swiss-roll", split="test").read(numbers)
    noise = np.random.default_rng(0).standard_normal((4000, 2))
    assert sliced_wasserstein(noise, data) > 0.14
    assert sliced_wasserstein(drawn, data) < 0.08
