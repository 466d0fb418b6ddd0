"""Weightings: one weight of the error of x_0, however it is predicted, and the papers' formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyddpm import registry
from tinyddpm.backend import load_backend
from tinyddpm.diffusion.objectives import Simple
from tinyddpm.diffusion.parametrisation import make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.diffusion.weightings import make_weights, min_snr, p2
from tinyddpm.errors import ConfigError
from tinyddpm.ops import Operations
from tinyddpm.ops.noising import Noised

NUMPY = load_backend("numpy")
PROCESS = GaussianProcess(NUMPY, make_betas("linear", 200), dtype=np.float64)
ALPHA_BAR = PROCESS.alpha_bar
SNR = ALPHA_BAR / (1 - ALPHA_BAR)
T = 200
PREDICTS = [entry.name for entry in registry.entries("parametrisations")]


def weights_of(name: str, predict: str, alpha_bar: np.ndarray = ALPHA_BAR, **options: Any) -> np.ndarray:
    process = GaussianProcess(NUMPY, 1 - alpha_bar / np.append(1.0, alpha_bar[:-1]))
    return make_weights(name, alpha_bar, make_parametrisation(process, predict), **options)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
@pytest.mark.parametrize("name", ["simple", "vlb", "min-snr", "p2"])
def test_weighted_losses_of_all_predictions_coincide(name: str, seed: int) -> None:
    """Over random x_0, noise, times and predicted x_0: all parametrisations give each sample the same weighted loss."""
    rng = np.random.default_rng(seed)
    x_0, eps, x_0_hat = rng.standard_normal((3, 6, 2))
    t = rng.integers(0, T, 6)
    x_t = PROCESS.q_sample(x_0, t, eps)
    eps_hat = PROCESS.predict_eps(x_t, t, x_0_hat)
    found = []
    for predict in PREDICTS:
        parametrisation = make_parametrisation(PROCESS, predict)
        out = parametrisation.target(x_0_hat, t, eps_hat)
        np.testing.assert_allclose(parametrisation.implied(x_t, t, out)[0], x_0_hat, atol=1e-9)
        simple = Simple(parametrisation, make_weights(name, ALPHA_BAR, parametrisation), "points")
        losses, _ = simple.forward(Operations(NUMPY), out, Noised(x_0, t, eps, x_t))
        found.append(np.mean(losses))
    np.testing.assert_allclose(found, found[0], rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "predict", "options", "expected"),
    [
        ("simple", "eps", {}, np.ones(T)),
        ("simple", "x_0", {}, SNR),
        ("simple", "v", {}, ALPHA_BAR),
        ("uniform", "v", {}, np.ones(T)),
        ("min-snr", "x_0", {}, np.minimum(SNR, 5)),
        ("min-snr", "eps", {"gamma": 3.0}, np.minimum(SNR, 3) / SNR),
        ("min-snr", "x_0", {"gamma": 0.5}, np.minimum(SNR, 0.5)),
        ("min-snr", "v", {}, np.minimum(SNR, 5) / (SNR + 1)),
        ("p2", "eps", {}, 1 / (1 + SNR)),
        ("p2", "eps", {"k": 0.5, "gamma": 0.7}, (0.5 + SNR) ** -0.7),
        ("p2", "x_0", {"gamma": 0.0}, SNR),
    ],
)
def test_weights_are_the_papers(name: str, predict: str, options: dict[str, Any], expected: np.ndarray) -> None:
    np.testing.assert_allclose(weights_of(name, predict, **options), expected, rtol=1e-12)


def test_simple_on_eps_is_exactly_1() -> None:
    """So that L_simple is computed without any weights."""
    for schedule in ("linear", "cosine"):
        alpha_bar = np.cumprod(1 - make_betas(schedule, 1000))
        parametrisation = make_parametrisation(GaussianProcess(NUMPY, make_betas(schedule, 1000)), "eps")
        assert np.all(make_weights("simple", alpha_bar, parametrisation) == 1.0)


def test_vlb_weights_are_those_of_the_kl() -> None:
    """On eps, beta² / (2 beta-tilde alpha (1 − alpha_bar)) (DDPM eq. 12), T times; on x_0, half the fall of the SNR."""
    betas = PROCESS.betas
    tilde = (1 - ALPHA_BAR[:-1]) / (1 - ALPHA_BAR[1:]) * betas[1:]
    on_eps = betas[1:] ** 2 / (2 * tilde * (1 - betas[1:]) * (1 - ALPHA_BAR[1:]))
    np.testing.assert_allclose(weights_of("vlb", "eps")[1:], T * on_eps, rtol=1e-9)
    on_x_0 = weights_of("vlb", "x_0")
    np.testing.assert_allclose(on_x_0[1:], -T * np.diff(SNR) / 2, rtol=1e-9)
    assert on_x_0[0] == pytest.approx(T / (2 * tilde[0]))


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("weightings")])
def test_no_time_is_left_out(name: str) -> None:
    """Every registered weighting, every prediction: (T,) float64 above 0, on three schedules."""
    for schedule in ("linear", "cosine", "quadratic"):
        alpha_bar = np.cumprod(1 - make_betas(schedule, 1000))
        for predict in PREDICTS:
            weights = weights_of(name, predict, alpha_bar)
            assert weights.dtype == np.float64
            assert weights.shape == (1000,)


def test_weights_that_leave_a_time_out_are_refused() -> None:
    """Without signal at T − 1, eps and what derives from its error weigh nothing there."""
    alpha_bar = np.cumprod(1 - zero_terminal_snr(make_betas("linear", 100)))
    for name in ("simple", "min-snr", "p2"):
        with pytest.raises(ConfigError, match=r"weighs the error at t = 99 by 0, .* use the weighting 'uniform'"):
            weights_of(name, "v", alpha_bar)
    assert np.all(weights_of("uniform", "v", alpha_bar) == 1)
    assert np.all(weights_of("vlb", "v", alpha_bar) > 0)


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        (np.array([1.0, np.inf]), "^weighting 'made-up' weighs the error at t = 1 by inf, "),
        (np.array([np.nan, 1.0]), "^weighting 'made-up' weighs the error at t = 0 by nan, "),
        (np.ones(3), r"^weighting 'made-up' returned shape \(3,\): it must be \(2,\)$"),
    ],
)
def test_weights_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, weights: np.ndarray, line: str) -> None:
    parametrisation = make_parametrisation(PROCESS, "eps")
    monkeypatch.setattr(registry, "build", lambda group, name, arguments, options: weights)
    with pytest.raises(ConfigError, match=line):
        make_weights("made-up", ALPHA_BAR[:2], parametrisation)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gamma is 0\.0"):
        min_snr(ALPHA_BAR, make_parametrisation(PROCESS, "eps"), gamma=0.0)
    with pytest.raises(ConfigError, match=r"k is 0\.0 and gamma 1"):
        p2(ALPHA_BAR, make_parametrisation(PROCESS, "eps"), k=0.0)
    with pytest.raises(ConfigError, match="did you mean 'gamma'"):
        weights_of("min-snr", "eps", gama=3.0)
