"""The options of a network's denoiser: thresholds that keep the predicted x_0 in the range of images."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tinyddpm.backend import Backend, load_backend
from tinyddpm.backend.workers import Workers
from tinyddpm.conditions import Conditioned, Unconditional
from tinyddpm.diffusion.denoiser import (
    Prediction,
    Threshold,
    Thresholded,
    dynamic_threshold,
    make_threshold,
    static_threshold,
)
from tinyddpm.diffusion.parametrisation import make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.errors import ConfigError
from tinyddpm.model.denoiser import NetworkDenoiser
from tinyddpm.nn import Layout, Widths, make_network
from tinyddpm.ops import load_operations

NUMPY = load_backend("numpy")
IMAGES = arrays(np.float64, array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-50, 50))


@given(x_0=IMAGES, percentile=st.floats(0.01, 1))
def test_dynamic_thresholding_is_imagens(x_0: np.ndarray, percentile: float) -> None:
    """Over shapes, values and percentiles, sample by sample: clip to ±s, divide by s, s the quantile of |x_0| or 1."""
    found = dynamic_threshold(NUMPY.xp, x_0, percentile)
    for sample, mine in zip(x_0, found, strict=True):
        s = max(1.0, np.quantile(np.abs(sample), percentile, method="inverted_cdf"))
        np.testing.assert_allclose(mine, np.clip(sample, -s, s) / s, rtol=1e-12)
    assert np.all(np.abs(found) <= 1)


def test_dynamic_thresholding_is_of_the_array_standard() -> None:
    x_0 = np.random.default_rng(0).standard_normal((3, 4, 4, 1), dtype=np.float32) * 2
    strict = Backend(array_api_strict)
    found = dynamic_threshold(strict.xp, strict.asarray(x_0), 0.9)
    np.testing.assert_allclose(strict.to_numpy(found), dynamic_threshold(NUMPY.xp, x_0, 0.9), rtol=1e-6)
    assert strict.to_numpy(found).dtype == np.float32


def prediction(threshold: Threshold | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, GaussianProcess]:
    """x_t, and the x_0 and eps that a network with random weights predicts of it at t = 40 of 50."""
    process = GaussianProcess(NUMPY, make_betas("cosine", 50))
    network = Conditioned(make_network("mlp", (2,), Widths(), 2, {}), Unconditional())
    layout = Layout(network.parameters)
    rng = np.random.default_rng(1)
    weights = layout.views(rng.standard_normal(layout.size, dtype=np.float32) / 4, NUMPY.xp)
    parametrisation = make_parametrisation(process, "eps")
    denoiser = NetworkDenoiser(network, load_operations(NUMPY), weights, parametrisation, {}, Workers(1))
    guarded = Thresholded(process, denoiser, threshold) if threshold else denoiser
    x_t = rng.standard_normal((64, 2), dtype=np.float32)
    return x_t, *guarded(x_t, 40), process


def test_a_threshold_applies_to_x0_and_eps_follows() -> None:
    """x_0 is the threshold of what it is without one, and with its eps makes up x_t again, to float32's rounding."""
    x_t, free, eps, process = prediction(make_threshold("none", 0.5))
    assert np.abs(free).max() > 1.5
    np.testing.assert_allclose(process.q_sample(free, 40, eps), x_t, rtol=1e-4, atol=1e-4)
    for name, expected in {"static": np.clip(free, -1, 1), "dynamic": dynamic_threshold(np, free, 0.5)}.items():
        _, x_0, eps, _ = prediction(make_threshold(name, 0.5))
        np.testing.assert_array_equal(x_0, expected)
        np.testing.assert_allclose(process.q_sample(x_0, 40, eps), x_t, rtol=1e-5, atol=1e-5)


def test_what_is_learned_of_the_variance_passes_a_threshold() -> None:
    """And a part of the batch has its part of all three."""
    process = GaussianProcess(NUMPY, make_betas("cosine", 50))
    x_0, eps, fraction = np.random.default_rng(0).normal(size=(3, 4, 2))
    guarded = Thresholded(process, lambda x_t, t: Prediction(x_0, eps, fraction), static_threshold)
    found = guarded(np.ones((4, 2)), 40)
    assert found.fraction is fraction
    part = found.rows(slice(1, 3))
    for of_part, of_all in zip((*part, part.fraction), (*found, fraction), strict=True):
        np.testing.assert_array_equal(of_part, of_all[1:3])
    assert Prediction(x_0, eps).rows(slice(1, 3)).fraction is None


def test_times_outside_the_chain_are_refused() -> None:
    """−1, the data, too: it does not wrap to T − 1. Any type of integer will do."""
    process = GaussianProcess(NUMPY, make_betas("cosine", 50))
    network = Conditioned(make_network("mlp", (2,), Widths(), 2, {}), Unconditional())
    layout = Layout(network.parameters)
    weights = layout.views(layout.initialise(0), NUMPY.xp)
    denoiser = NetworkDenoiser(
        network, load_operations(NUMPY), weights, make_parametrisation(process, "eps"), {}, Workers(1)
    )
    x_t = np.ones((3, 2), np.float32)
    for t in (-1, 50):
        with pytest.raises(ConfigError, match=f"t is {t}: give a time from 0 to 49"):
            denoiser(x_t, t)
    np.testing.assert_array_equal(denoiser(x_t, np.uint8(40)).x_0, denoiser(x_t, 40).x_0)


@pytest.mark.parametrize("predict", ["eps", "x_0", "v", "flow"])
def test_what_is_predicted_and_learned_is_read(predict: str) -> None:
    """An output of 2 C channels: its first half, converted, is (x_0, eps), its second the fraction."""
    process = GaussianProcess(NUMPY, make_betas("cosine", 50))
    network = Conditioned(make_network("mlp", (2,), Widths(), 4, {}), Unconditional())
    layout = Layout(network.parameters)
    rng = np.random.default_rng(1)
    weights = layout.views(rng.standard_normal(layout.size, dtype=np.float32) / 4, NUMPY.xp)
    ops, x_t = load_operations(NUMPY), rng.standard_normal((8, 2), dtype=np.float32)
    parametrisation = make_parametrisation(process, predict)
    found = NetworkDenoiser(network, ops, weights, parametrisation, {}, Workers(1), True)(x_t, 40)
    out, _ = network.forward(ops, weights, x_t, np.full(8, 40), {})
    x_0, eps = found
    np.testing.assert_array_equal((x_0, eps), parametrisation.implied(x_t, 40, out[:, :2]))
    np.testing.assert_array_equal(found.fraction, (out[:, 2:] + 1) / 2)


def test_an_unknown_threshold_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown threshold 'dinamic': did you mean 'dynamic'"):
        make_threshold("dinamic", 0.995)


@pytest.mark.parametrize("percentile", [0.0, 1.1, -0.5, float("nan")])
def test_an_impossible_percentile_is_refused(percentile: float) -> None:
    assert make_threshold("dynamic", 1.0) is not None
    with pytest.raises(ConfigError, match=f"percentile is {percentile}: give a share"):
        make_threshold("dynamic", percentile)
