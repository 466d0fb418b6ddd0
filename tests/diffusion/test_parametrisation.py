"""What a network may predict: conversions that undo each other, their derivatives, and what each weighs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinyddpm.backend import Backend, load_backend
from tinyddpm.diffusion.parametrisation import (
    PREDICTS,
    Predict,
    checked_predict,
    dx_0_dprediction,
    halves,
    implied,
    implied_weight,
    score,
    target,
)
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.errors import ConfigError

NUMPY = load_backend("numpy")
BETAS = make_betas("cosine", 100)
PROCESS = GaussianProcess(NUMPY, BETAS, dtype=np.float64)
VALUES = hnp.arrays(np.float64, (3, 2), elements=st.floats(-3, 3))
TIMES = st.integers(0, 99) | hnp.arrays(np.int64, 3, elements=st.integers(0, 99))
PREDICT = pytest.mark.parametrize("predict", PREDICTS)


@given(x_0=VALUES, eps=VALUES, t=TIMES)
@PREDICT
def test_target_and_implied_undo_each_other(predict: Predict, x_0: np.ndarray, eps: np.ndarray, t: int) -> None:
    """Over values and times, one or one per sample: (x_0, eps) → prediction → (x_0, eps), to rounding over alpha."""
    x_t = PROCESS.q_sample(x_0, t, eps)
    back = implied(PROCESS, predict, x_t, t, target(PROCESS, predict, x_0, t, eps))
    rounding = 1e-13 / np.sqrt(PROCESS.alpha_bar.min() * BETAS.min())
    np.testing.assert_allclose(back[0], x_0, atol=rounding)
    np.testing.assert_allclose(back[1], eps, atol=rounding)


@given(prediction=VALUES, x_t=VALUES, t=TIMES)
@PREDICT
def test_implied_and_target_undo_each_other(predict: Predict, prediction: np.ndarray, x_t: np.ndarray, t: int) -> None:
    """Over values and times: prediction → (x_0, eps) → prediction, and the pair makes up x_t."""
    x_0, eps = implied(PROCESS, predict, x_t, t, prediction)
    rounding = 1e-13 / np.sqrt(PROCESS.alpha_bar.min() * BETAS.min())
    np.testing.assert_allclose(target(PROCESS, predict, x_0, t, eps), prediction, atol=rounding)
    np.testing.assert_allclose(PROCESS.q_sample(x_0, t, eps), x_t, atol=rounding)


@given(x_0=VALUES, eps=VALUES, t=st.integers(0, 99))
def test_v_is_the_velocity_on_the_circle(x_0: np.ndarray, eps: np.ndarray, t: int) -> None:
    """Over values and times: v is the derivative of cos φ x_0 + sin φ eps at tan φ = sigma / alpha (v-pred, eq. 12)."""
    phi = np.arctan2(np.sqrt(1 - PROCESS.alpha_bar[t]), np.sqrt(PROCESS.alpha_bar[t]))
    h = 1e-6
    ahead, behind = (np.cos(phi + s) * x_0 + np.sin(phi + s) * eps for s in (h, -h))
    np.testing.assert_allclose(target(PROCESS, "v", x_0, t, eps), (ahead - behind) / (2 * h), atol=1e-8)


@given(prediction=VALUES, x_t=VALUES, error=VALUES, t=st.integers(0, 98))
@PREDICT
def test_an_error_weighs_that_of_x0_as_stated(
    predict: Predict, prediction: np.ndarray, x_t: np.ndarray, error: np.ndarray, t: int
) -> None:
    """Over values and times: |error of the prediction|² = weight |error of x_0|², and the derivative is their ratio."""
    right, wrong = (implied(PROCESS, predict, x_t, t, p)[0] for p in (prediction, prediction + error))
    weight = implied_weight(predict, PROCESS.alpha_bar)[t]
    scale = 1 / np.sqrt(PROCESS.alpha_bar[t] * BETAS.min())
    np.testing.assert_allclose(np.sqrt(weight) * np.abs(wrong - right), np.abs(error), atol=1e-12 * scale)
    slope = dx_0_dprediction(PROCESS, predict, x_t, t)
    np.testing.assert_allclose(wrong - right, slope * error, atol=1e-12 * scale)


def test_score_is_the_gradient_of_the_log_density() -> None:
    """For x_0 ~ N(0, 0.09) the exact eps is sigma x_t / (0.09 alpha_bar + sigma²), and the score −x_t over the same."""
    x_t = np.linspace(-2, 2, 9)[:, None]
    for t in (0, 40, 99):
        total = 0.09 * PROCESS.alpha_bar[t] + 1 - PROCESS.alpha_bar[t]
        eps = np.sqrt(1 - PROCESS.alpha_bar[t]) * x_t / total
        np.testing.assert_allclose(score(PROCESS, t, eps), -x_t / total, rtol=1e-12)


def test_predictions_that_cannot_be_are_refused() -> None:
    assert [checked_predict(PROCESS, name) for name in PREDICTS] == list(PREDICTS)
    with pytest.raises(ConfigError, match=r"unknown prediction 'epsilon': .*there are: eps"):
        checked_predict(PROCESS, "epsilon")
    ends_in_noise = GaussianProcess(NUMPY, zero_terminal_snr(BETAS))
    with pytest.raises(ConfigError, match="predict is 'eps', but the schedule ends with alpha_bar = 0"):
        checked_predict(ends_in_noise, "eps")
    assert checked_predict(ends_in_noise, "v") == "v"


@pytest.mark.parametrize("predict", ["x_0", "v"])
def test_predictions_survive_the_end_of_the_signal(predict: Predict) -> None:
    """With alpha_bar_T = 0, x_T is eps, v is −x_0, and both pairs and x_T go together there."""
    process = GaussianProcess(NUMPY, zero_terminal_snr(BETAS), dtype=np.float64)
    x_0, eps = np.random.default_rng(0).standard_normal((2, 3, 2))
    x_t = process.q_sample(x_0, 99, eps)
    np.testing.assert_array_equal(x_t, eps)
    found = implied(process, predict, x_t, 99, target(process, predict, x_0, 99, eps))
    np.testing.assert_allclose(found, (x_0, eps), atol=1e-12)
    mean, variance = process.q_posterior(found[0], x_t, 99)
    np.testing.assert_allclose(mean, np.sqrt(process.alpha_bar[98]) * x_0, atol=1e-12)
    assert variance == pytest.approx(1 - process.alpha_bar[98])


def test_halves_are_the_prediction_and_a_fraction() -> None:
    prediction, fraction = halves(np.arange(-4.0, 4.0).reshape(2, 1, 4))
    np.testing.assert_array_equal(prediction, [[[-4, -3]], [[0, 1]]])
    np.testing.assert_array_equal(fraction, [[[-0.5, 0]], [[1.5, 2]]])


@PREDICT
def test_conversions_are_of_the_array_standard(other_backend: Backend, predict: Predict) -> None:
    """In float32, one time for each sample, as on NumPy in float64, to rounding over alpha."""
    rng = np.random.default_rng(1)
    x_t, prediction = rng.standard_normal((2, 4, 2))
    t = np.array([0, 20, 60, 80])
    process = GaussianProcess(other_backend, BETAS)
    on = [other_backend.asarray(a.astype(np.float32)) for a in (x_t, prediction)]
    at = other_backend.asarray(t)
    pairs = zip(implied(process, predict, on[0], at, on[1]), implied(PROCESS, predict, x_t, t, prediction), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(other_backend.to_numpy(found), expected, rtol=1e-5, atol=1e-4)
