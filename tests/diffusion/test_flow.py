"""The likelihood by the flow is the true density, to an error that falls with the steps; its trace has no bias."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest

from helpers.flow import NEAR
from helpers.gaussians import Floats, Mixture
from helpers.networks import SKETCHES
from helpers.posterior import Exact, drawn, log_density
from tinyddpm import registry
from tinyddpm.backend import Purpose, load_backend
from tinyddpm.backend.workers import Workers
from tinyddpm.diffusion.flow import BIN, bits_per_dimension, flow_log_density, flow_times
from tinyddpm.diffusion.parametrisation import make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.errors import ConfigError
from tinyddpm.model.denoiser import NetworkDenoiser, NetworkFlow
from tinyddpm.ops import load_operations
from tinyddpm.testing import random_weights

NUMPY = load_backend("numpy")
RATIOS = np.geomspace(0.02, 1e6, 1025)
"""Noise to signal, so far that what is left of the data at the end, 1e-6, does not show."""
SIGNS = [np.array([1.0, 1.0]), np.array([1.0, -1.0])]
"""The others are these turned round, which vᵀ J v does not see."""
GAUSSIAN = Mixture(np.ones(1), np.array([[0.3, -0.5]]), np.array([[[0.25, 0.1], [0.1, 0.09]]]))


@lru_cache
def process() -> GaussianProcess:
    alpha_bar = 1 / (1 + RATIOS**2)
    betas = 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    return GaussianProcess(NUMPY, betas, dtype=np.float64)


def with_exact_trace(mixture: Mixture, x: Floats, steps: int | None) -> Floats:
    """The mean over all sign vectors: vᵀ J v has tr J as its mean over them, whatever J."""
    exact = Exact(process(), mixture)
    times = flow_times(process(), steps)
    found = [flow_log_density(process(), exact, x, times, lambda t, v=v: np.broadcast_to(v, x.shape)) for v in SIGNS]
    return np.mean(found, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("mixture", [GAUSSIAN, NEAR], ids=["gaussian", "mixture"])
def test_the_density_is_the_true_one(mixture: Mixture) -> None:
    """That of the data with the noise of t = 0: the largest error at 200 of their points is of second order.

    From 64 to all 1024 steps each doubling makes it 3.5 to 4.5 times less, down to 1e-3 nats.
    """
    x = drawn(mixture, 200, seed=0)
    truth = log_density(mixture, x, RATIOS[0] ** 2)
    errors = [np.abs(with_exact_trace(mixture, x, steps) - truth).max() for steps in (64, 128, 256, 512, None)]
    for error, next_error in pairwise(errors):
        assert 3.5 < error / next_error < 4.5, errors
    assert errors[-1] < 1e-3


def test_the_density_nears_the_true_one() -> None:
    """At 10 points, in steps that keep it short: from 64 to 128 of them the error falls as it does above."""
    x = drawn(NEAR, 10, seed=0)
    truth = log_density(NEAR, x, RATIOS[0] ** 2)
    error, next_error = (np.abs(with_exact_trace(NEAR, x, steps) - truth).max() for steps in (64, 128))
    assert 3.5 < error / next_error < 4.5
    assert next_error < 0.06


def test_each_step_of_the_flow_is_told() -> None:
    times, told = flow_times(process(), 8), []
    x, exact = drawn(NEAR, 2, seed=0), Exact(process(), NEAR)
    flow_log_density(process(), exact, x, times, lambda t: np.ones_like(x), lambda: told.append(None))
    assert len(told) == len(times) == 9


def test_hutchinsons_trace_has_no_bias() -> None:
    """One point 4000 times, each with its own signs at each time: the mean is the exact trace's.

    Within 5 standard errors, a false alarm below 1e-6, and these are small enough to tell: below 0.02 nats.
    """
    x = drawn(NEAR, 1, seed=1)
    exact = with_exact_trace(NEAR, x, 64)
    random, numbers, many = NUMPY.random(0), np.arange(4000), np.repeat(x, 4000, axis=0)

    def probe(t: int) -> Floats:
        return 2.0 * random.keep_mask(Purpose.FLOW_NOISE, t, numbers, (2,), 0.5) - 1

    found = flow_log_density(process(), Exact(process(), NEAR), many, flow_times(process(), 64), probe)
    error = found.std() / 4000**0.5
    assert 0 < error < 0.02
    assert abs(found.mean() - exact[0]) < 5 * error


def test_a_uniform_law_over_the_pixels_takes_8_bits() -> None:
    """256 bins, all alike: the density over their whole width gives each a mass of 1/256, whatever the shape."""
    density = np.full(3, -4 * np.log(256 * 2 / 255))
    np.testing.assert_allclose(bits_per_dimension(density, (2, 2, 1), BIN), 8, rtol=1e-12)
    np.testing.assert_allclose(bits_per_dimension(density, (2, 2, 1)), 8 + np.log2(BIN), rtol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("predict", [entry.name for entry in registry.entries("parametrisations")])
@pytest.mark.parametrize("name", ["mlp-classes", "unet-adaptive"])
def test_a_networks_eps_and_derivative(name: str, predict: str, learned: bool, threads: int) -> None:
    """eps is the denoiser's; vᵀ J u by the backward is that by central differences, to 1e-6.

    For networks with classes, whatever they predict, the batch shared by threads or not.
    """
    sketch = SKETCHES[name]
    channels = sketch.shape[-1] * (2 if learned else 1)
    network = type(sketch)(sketch.name, sketch.shape, sketch.classes, channels, sketch.options).build()
    chain = GaussianProcess(NUMPY, make_betas("cosine", 20), dtype=np.float64)
    rng = np.random.default_rng(0)
    cond = {"label": rng.integers(0, sketch.classes, 5)}
    w = random_weights(network, 0)

    arguments = (
        network,
        load_operations(NUMPY),
        w,
        make_parametrisation(chain, predict),
        cond,
        Workers(threads),
        learned,
    )
    denoiser = NetworkDenoiser(*arguments)
    flow = NetworkFlow(denoiser)
    x, v, u = rng.normal(size=(3, 5, *sketch.shape))
    eps, vjp = flow.eps_and_vjp(x, 7, v)
    np.testing.assert_allclose(eps, denoiser(x, 7).eps, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(flow.eps(x, 7), eps, rtol=1e-9, atol=1e-12)
    axes, h = tuple(range(1, x.ndim)), 1e-5
    difference = (flow.eps(x + h * u, 7) - flow.eps(x - h * u, 7)) / (2 * h)
    np.testing.assert_allclose(np.sum(vjp * u, axis=axes), np.sum(v * difference, axis=axes), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("T", [2, 3, 25, 400])
def test_flow_times_rise_from_the_first_to_the_last(T: int) -> None:
    """Over all numbers of steps (every 13th for long chains), on a cosine schedule."""
    chain = GaussianProcess(NUMPY, make_betas("cosine", T))
    for steps in range(1, T, 1 if T < 50 else 13):
        times = flow_times(chain, steps)
        assert len(times) == steps + 1
        assert (times[0], times[-1]) == (0, T - 1)
        assert np.all(np.diff(times) > 0)
    assert flow_times(chain) == list(range(T))


@pytest.mark.parametrize("steps", [0, 25])
def test_refuses_steps_that_the_chain_does_not_have(steps: int) -> None:
    chain = GaussianProcess(NUMPY, make_betas("linear", 25))
    with pytest.raises(ConfigError, match=f"^{steps} steps of the flow on a chain of 25: give between 1 and 24$"):
        flow_times(chain, steps)


def test_refuses_a_chain_without_signal_at_the_end() -> None:
    chain = GaussianProcess(NUMPY, zero_terminal_snr(make_betas("linear", 25)))
    with pytest.raises(ConfigError, match="ends with alpha_bar = 0"):
        flow_times(chain)
