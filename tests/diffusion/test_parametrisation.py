"""What a network may predict: conversions that undo each other, their derivatives, and what each weighs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinyddpm import registry
from tinyddpm.backend import Backend, load_backend
from tinyddpm.diffusion.parametrisation import Coefficients, Parametrisation, halves, make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess, noise_to_signal
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.errors import ConfigError, RegistryError

NUMPY = load_backend("numpy")
BETAS = make_betas("cosine", 100)
PROCESS = GaussianProcess(NUMPY, BETAS, dtype=np.float64)
ALPHA, SIGMA = PROCESS.alpha_bar**0.5, (1 - PROCESS.alpha_bar) ** 0.5
VALUES = hnp.arrays(np.float64, (3, 2), elements=st.floats(-3, 3))
TIMES = st.integers(0, 99) | hnp.arrays(np.int64, 3, elements=st.integers(0, 99))
NAMES = [entry.name for entry in registry.entries("parametrisations")]
EACH = pytest.mark.parametrize("name", NAMES)
ROUNDING = 1e-13 / np.sqrt(PROCESS.alpha_bar.min() * BETAS.min())


def made(name: str, **options: float) -> Parametrisation:
    return make_parametrisation(PROCESS, name, **options)


@pytest.mark.slow
@given(x_0=VALUES, eps=VALUES, t=TIMES)
@EACH
def test_target_and_implied_undo_each_other(name: str, x_0: np.ndarray, eps: np.ndarray, t: int) -> None:
    """Over values and times, one or one per sample: (x_0, eps) → prediction → (x_0, eps), to rounding over alpha."""
    x_t = PROCESS.q_sample(x_0, t, eps)
    back = made(name).implied(x_t, t, made(name).target(x_0, t, eps))
    np.testing.assert_allclose(back[0], x_0, atol=ROUNDING)
    np.testing.assert_allclose(back[1], eps, atol=ROUNDING)


@pytest.mark.slow
@given(prediction=VALUES, x_t=VALUES, t=TIMES)
@EACH
def test_implied_and_target_undo_each_other(name: str, prediction: np.ndarray, x_t: np.ndarray, t: int) -> None:
    """Over values and times: prediction → (x_0, eps) → prediction, and the pair makes up x_t."""
    x_0, eps = made(name).implied(x_t, t, prediction)
    np.testing.assert_allclose(made(name).target(x_0, t, eps), prediction, atol=ROUNDING)
    np.testing.assert_allclose(PROCESS.q_sample(x_0, t, eps), x_t, atol=ROUNDING)


@pytest.mark.slow
@given(x_0=VALUES, eps=VALUES, t=st.integers(0, 99))
def test_v_is_the_velocity_on_the_circle(x_0: np.ndarray, eps: np.ndarray, t: int) -> None:
    """Over values and times: v is the derivative of cos φ x_0 + sin φ eps at tan φ = sigma / alpha (v-pred, eq. 12)."""
    phi = np.arctan2(SIGMA[t], ALPHA[t])
    h = 1e-6
    ahead, behind = (np.cos(phi + s) * x_0 + np.sin(phi + s) * eps for s in (h, -h))
    np.testing.assert_allclose(made("v").target(x_0, t, eps), (ahead - behind) / (2 * h), atol=1e-8)


CLOSED = {
    "eps": {"of_x_0": 0, "of_eps": 1, "skip": 1 / ALPHA, "out": -SIGMA / ALPHA, "eps_skip": 0, "eps_out": 1},
    "x_0": {"of_x_0": 1, "of_eps": 0, "skip": 0, "out": 1, "eps_skip": 1 / SIGMA, "eps_out": -ALPHA / SIGMA},
    "v": {"of_x_0": -SIGMA, "of_eps": ALPHA, "skip": ALPHA, "out": -SIGMA, "eps_skip": SIGMA, "eps_out": ALPHA},
    "flow": {
        "of_x_0": -1,
        "of_eps": 1,
        "skip": 1 / (ALPHA + SIGMA),
        "out": -SIGMA / (ALPHA + SIGMA),
        "eps_skip": 1 / (ALPHA + SIGMA),
        "eps_out": ALPHA / (ALPHA + SIGMA),
    },
}


@pytest.mark.parametrize("name", CLOSED)
def test_coefficients_are_the_papers(name: str) -> None:
    """DDPM eqs. 4 and 15; v-prediction's appendix D; rectified flow's x_0 = z − τ F and eps = z + (1 − τ) F."""
    found, given = made(name), registry.load("parametrisations", name)(PROCESS.alpha_bar)
    for what, value in CLOSED[name].items():
        table = getattr(given if what.startswith("of_") else found, what)
        np.testing.assert_allclose(table, np.broadcast_to(value, (100,)), rtol=1e-12)
    np.testing.assert_array_equal(found.scale, 1)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 0.3])
def test_edm_is_table_1(sigma_data: float) -> None:
    """c_skip, c_out, c_in and the effective target of arXiv 2206.00364 (table 1, eq. 8), in x̄ = x_t / alpha."""
    s, found = noise_to_signal(PROCESS.alpha_bar), made("edm", sigma_data=sigma_data)
    c_skip = sigma_data**2 / (s**2 + sigma_data**2)
    c_out = s * sigma_data / np.sqrt(s**2 + sigma_data**2)
    c_in = 1 / np.sqrt(s**2 + sigma_data**2)
    np.testing.assert_allclose(found.skip * ALPHA, c_skip, rtol=1e-12)
    np.testing.assert_allclose(found.out, c_out, rtol=1e-12)
    np.testing.assert_allclose(found.scale * ALPHA, c_in, rtol=1e-12)
    x_0, eps = np.random.default_rng(0).standard_normal((2, 3, 2))
    for t in (0, 50, 90):
        target = (x_0 - c_skip[t] * (x_0 + s[t] * eps)) / c_out[t]
        np.testing.assert_allclose(found.target(x_0, t, eps), target, rtol=1e-9)
    # Both the network's input and its target have variance 1 for data of this deviation (ibid. appendix B.6).
    np.testing.assert_allclose(found.scale**2 * (ALPHA**2 * sigma_data**2 + SIGMA**2), 1, rtol=1e-12)
    coefficients = registry.load("parametrisations", "edm")(PROCESS.alpha_bar, sigma_data=sigma_data)
    np.testing.assert_allclose(coefficients.of_x_0**2 * sigma_data**2 + coefficients.of_eps**2, 1, rtol=1e-12)
    for wrong in (0.0, np.inf):
        with pytest.raises(ConfigError, match=f"sigma_data is {wrong}"):
            made("edm", sigma_data=wrong)


@pytest.mark.slow
@given(prediction=VALUES, x_t=VALUES, error=VALUES, t=st.integers(0, 98))
@EACH
def test_an_error_weighs_as_stated(
    name: str, prediction: np.ndarray, x_t: np.ndarray, error: np.ndarray, t: int
) -> None:
    """Over values and times: an error of F is `out` times as much in x_0, and `eps_out` times in eps."""
    found = made(name)
    right, wrong = (found.implied(x_t, t, p) for p in (prediction, prediction + error))
    scale = 1e-12 / np.sqrt(PROCESS.alpha_bar[t] * BETAS.min())
    np.testing.assert_allclose(wrong[0] - right[0], found.out[t] * error, atol=scale)
    np.testing.assert_allclose(wrong[1] - right[1], found.eps_out[t] * error, atol=scale)
    assert found.slope(x_t, t) == found.out[t]
    skip, out = found.eps_share(x_t, t)
    np.testing.assert_allclose(skip * x_t + out * prediction, right[1], atol=scale)


@EACH
def test_a_time_for_each_sample_has_its_own_share(name: str) -> None:
    """As arrays that broadcast to x_t; one time has floats."""
    found, x_t, t = made(name), np.zeros((3, 2)), np.array([0, 50, 99])
    tables = (found.out, found.eps_skip, found.eps_out)
    for many, table in zip((found.slope(x_t, t), *found.eps_share(x_t, t)), tables, strict=True):
        np.testing.assert_array_equal(many, table[t][:, None])


def test_the_implied_weights_are_of_the_snr() -> None:
    """The squared error of F weighs that of x_0 by SNR, 1, SNR + 1 and (1 + √SNR)²; EDM's by 1 / c_out²."""
    snr = PROCESS.alpha_bar / (1 - PROCESS.alpha_bar)
    for name, expected in {"eps": snr, "x_0": snr**0, "v": snr + 1, "flow": (1 + snr**0.5) ** 2}.items():
        np.testing.assert_allclose(made(name).out ** -2, expected, rtol=1e-12)
    np.testing.assert_allclose(made("edm").out ** -2, snr + 0.5**-2, rtol=1e-12)


def test_predictions_that_cannot_be_are_refused() -> None:
    with pytest.raises(RegistryError, match=r"unknown parametrisation 'epsilon': .*there are: eps"):
        made("epsilon")
    ends_in_noise = GaussianProcess(NUMPY, zero_terminal_snr(BETAS))
    line = "parametrisation 'eps' says nothing of x_0 at t = 99, where alpha_bar is 0"
    with np.errstate(all="raise"), pytest.raises(ConfigError, match=line):
        make_parametrisation(ends_in_noise, "eps")
    loud = GaussianProcess(NUMPY, np.full(100, 0.9))  # 1 / √alpha_bar is too large for float32 from 10⁻⁷⁸ on
    with (
        np.errstate(all="raise"),
        pytest.raises(ConfigError, match=r"'eps' says nothing of x_0 at t = 77, where .* 1e-78"),
    ):
        make_parametrisation(loud, "eps")
    make_parametrisation(loud, "v")
    one, zero = np.ones(100), np.zeros(100)
    for wrong, line in (
        (Coefficients(ALPHA, SIGMA, one), "'given' says nothing of x_0 at t = 0"),
        (
            Coefficients(one, zero[:9], one),
            r"^parametrisation 'given': of_eps must be a NumPy float64 array of shape \(100,\)",
        ),
        (Coefficients(one, zero, np.where(np.arange(100) == 7, np.inf, 1)), "scale is inf at t = 7"),
    ):
        with pytest.raises(ConfigError, match=line):
            Parametrisation(PROCESS, wrong)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "eps"])
def test_predictions_survive_the_end_of_the_signal(name: str) -> None:
    """With alpha_bar_T = 0, x_T is eps, and both pairs and x_T go together there."""
    process = GaussianProcess(NUMPY, zero_terminal_snr(BETAS), dtype=np.float64)
    x_0, eps = np.random.default_rng(0).standard_normal((2, 3, 2))
    x_t = process.q_sample(x_0, 99, eps)
    np.testing.assert_array_equal(x_t, eps)
    parametrisation = make_parametrisation(process, name)
    found = parametrisation.implied(x_t, 99, parametrisation.target(x_0, 99, eps))
    np.testing.assert_allclose(found, (x_0, eps), atol=1e-12)
    mean, variance = process.q_posterior(found[0], x_t, 99)
    np.testing.assert_allclose(mean, np.sqrt(process.alpha_bar[98]) * x_0, atol=1e-12)
    assert variance == pytest.approx(1 - process.alpha_bar[98])


def test_halves_are_the_prediction_and_a_fraction() -> None:
    prediction, fraction = halves(np.arange(-4.0, 4.0).reshape(2, 1, 4))
    np.testing.assert_array_equal(prediction, [[[-4, -3]], [[0, 1]]])
    np.testing.assert_array_equal(fraction, [[[-0.5, 0]], [[1.5, 2]]])


@EACH
def test_conversions_are_of_the_array_standard(other_backend: Backend, name: str) -> None:
    """In float32, one time for each sample, as on NumPy in float64, to rounding over alpha."""
    rng = np.random.default_rng(1)
    x_t, prediction = rng.standard_normal((2, 4, 2))
    t = np.array([0, 20, 60, 80])
    parametrisation = make_parametrisation(GaussianProcess(other_backend, BETAS), name)
    on = [other_backend.asarray(a.astype(np.float32)) for a in (x_t, prediction)]
    at = other_backend.asarray(t)
    for found, expected in (
        *zip(parametrisation.implied(on[0], at, on[1]), made(name).implied(x_t, t, prediction), strict=True),
        (parametrisation.target(on[0], at, on[1]), made(name).target(x_t, t, prediction)),
    ):
        np.testing.assert_allclose(other_backend.to_numpy(found), expected, rtol=1e-5, atol=1e-4)
