"""The terms of the bound: the decoder is a law over pixels, the KL the closed form, and both hold at the extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.backend import load_backend
from tinyddpm.diffusion.likelihood import bound_term, prior_term
from tinyddpm.diffusion.process import GaussianProcess, Variance
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.ops import Operations, load_operations

NUMPY = load_backend("numpy")
LEVELS = np.arange(256) / 127.5 - 1
PROCESS = GaussianProcess(NUMPY, make_betas("linear", 100), dtype=np.float64)


@given(mean=st.floats(-1.5, 1.5), log_variance=st.floats(-20, 4))
def test_the_pixels_probabilities_sum_to_1(mean: float, log_variance: float) -> None:
    """Over means in and around the range, and standard deviations from 5e-5 to 7."""
    nll, _ = Operations(NUMPY).pixel_nll(np.full(256, mean), np.full(256, log_variance), LEVELS)
    assert np.exp(-nll).sum() == pytest.approx(1, abs=1e-12)


@given(mean=st.floats(-1, 1), log_variance=st.floats(-9, 1))
def test_a_pixels_probability_is_its_bins(mean: float, log_variance: float) -> None:
    """Over means and standard deviations from 0.01 to 1.6: eq. 13's integral with the exact Φ, to 5e-4.

    The approximation of Φ is off by less than 2e-4 (Page 1977), at two ends.
    """
    s = math.exp(log_variance / 2)
    edges = [-math.inf, *(LEVELS[:-1] + 1 / 255), math.inf]
    phi = np.array([0.5 * math.erfc((mean - edge) / (s * math.sqrt(2))) for edge in edges])
    nll, _ = Operations(NUMPY).pixel_nll(np.full(256, mean), np.full(256, log_variance), LEVELS)
    np.testing.assert_allclose(np.exp(-nll), np.diff(phi), atol=5e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_decoders_tails_are_safe(dtype: type) -> None:
    """Means 100 off on either side, standard deviations from 1e-6 to 1e4: everything is finite, without a warning.

    The gradient still pulls the mean towards the pixel wherever that has an effect.
    """
    ops = load_operations(NUMPY, training=True)
    means, log_variances, x = (
        grid.ravel().astype(dtype)
        for grid in np.meshgrid([-100, -1.0, 0.3, 1.0, 100], 2 * np.log([1e-6, 1e-2, 1, 1e4]), [-1.0, 0.2, 1.0])
    )
    with np.errstate(all="raise", under="ignore"):
        nll, saved = ops.pixel_nll(means, log_variances, x)
        dmean, dlog_variance = ops.pixel_nll_backward(saved, np.ones_like(nll))
    assert nll.dtype == dtype
    assert np.isfinite(nll).all()
    assert np.isfinite(dmean).all()
    assert np.isfinite(dlog_variance).all()
    assert np.all(nll >= 0)
    far = (np.abs(means) == 100) & (means * x < 100) & (log_variances < 1) & (np.abs(x - np.sign(means)) > 0.1)
    assert far.any()
    assert np.all(dmean[far] * means[far] > 0)


@pytest.mark.parametrize("mean", [-1.0, 0.25, 1.0, 2.0])
@pytest.mark.parametrize("log_variance", [-12.0, -6.0, 0.0, 6.0])
def test_float32_agrees_with_float64(mean: float, log_variance: float) -> None:
    """nll and both gradients over all 256 levels, to 1e-5 of the larger of 1 and the largest, for float32's inputs."""
    arguments = [np.full(256, mean), np.full(256, log_variance), LEVELS]
    single = [a.astype(np.float32) for a in arguments]
    results = []
    for inputs in (single, [a.astype(np.float64) for a in single]):
        ops = load_operations(NUMPY, training=True)
        nll, saved = ops.pixel_nll(*inputs)
        results.append((nll, *ops.pixel_nll_backward(saved, np.ones_like(nll))))
    for name, found, exact in zip(("nll", "dmean", "dlog_variance"), *results, strict=True):
        error = np.abs(found - exact).max() / max(1.0, np.abs(exact).max())
        assert error < 1e-5, f"{name} is off by {error:.1e}"


@given(mean=st.floats(-2, 2), log_variance=st.floats(-8, 2), q_mean=st.floats(-2, 2), q_log_variance=st.floats(-8, 2))
def test_kl_is_the_integral(mean: float, log_variance: float, q_mean: float, q_log_variance: float) -> None:
    """Over two Gaussians: E_q[log q − log p], which Gauss and Hermite's 8 nodes integrate exactly."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    x = q_mean + math.exp(q_log_variance / 2) * nodes

    def log_density(m: float, v: float) -> np.ndarray:
        return -0.5 * (math.log(2 * math.pi) + v + (x - m) ** 2 * math.exp(-v))

    exact = weights @ (log_density(q_mean, q_log_variance) - log_density(mean, log_variance)) / weights.sum()
    arrays = [np.array([a]) for a in (mean, log_variance, q_mean, q_log_variance)]
    kl, _ = Operations(NUMPY).gaussian_kl(*arrays)
    assert kl[0] == pytest.approx(exact, rel=1e-9, abs=1e-12)
    assert kl[0] >= 0


def test_kl_by_simulation() -> None:
    """The mean of log q − log p over 200,000 draws from q, within 5 standard errors (a false alarm below 1e-6)."""
    mean, log_variance, q_mean, q_log_variance = 0.3, -1.0, -0.2, -2.0
    x = q_mean + np.exp(q_log_variance / 2) * np.random.default_rng(0).standard_normal(200_000)
    ops = Operations(NUMPY)
    p, _ = ops.gaussian_nll(np.full_like(x, mean), np.full_like(x, log_variance), x)
    q, _ = ops.gaussian_nll(np.full_like(x, q_mean), np.full_like(x, q_log_variance), x)
    kl, _ = ops.gaussian_kl(*(np.array([a]) for a in (mean, log_variance, q_mean, q_log_variance)))
    assert abs(np.mean(p - q) - kl[0]) < 5 * np.std(p - q) / np.sqrt(len(x))


def test_terms_are_of_their_own_times() -> None:
    """In one batch: at t = 0 the decoder, later the KL with beta-tilde, in bits, averaged over a sample's elements."""
    rng = np.random.default_rng(0)
    x_0, x_t, mean, log_variance = rng.uniform(-1, 1, (4, 3, 2, 2, 1))
    x_0 = np.rint((x_0 + 1) * 127.5) / 127.5 - 1
    t = np.array([5, 0, 99])
    ops = Operations(NUMPY)
    term, _ = bound_term(ops, PROCESS, "pixels", x_0, x_t, t, mean, log_variance)
    pixels, _ = ops.pixel_nll(mean[1], log_variance[1], x_0[1])
    assert term[1] == pytest.approx(pixels.mean() / math.log(2))
    points, _ = bound_term(ops, PROCESS, "points", x_0, x_t, t, mean, log_variance)
    np.testing.assert_array_equal(points[[0, 2]], term[[0, 2]])
    for n in (0, 2):
        q_mean, tilde = PROCESS.q_posterior(x_0[n], x_t[n], int(t[n]))
        z2 = (tilde + (mean[n] - q_mean) ** 2) / np.exp(log_variance[n])
        kl = 0.5 * (log_variance[n] - np.log(tilde) + z2 - 1)
        assert term[n] == pytest.approx(kl.mean() / math.log(2))


def bound_of_a_gaussian(T: int, fixed: Variance | None) -> float:
    """L in bits for x_0 ~ N(0, 0.25) and the exact mean, with its exact variance or a fixed one.

    Expectations over x_0 and the noise are exact: all terms are quadratic in both, and 8 nodes in each integrate them.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    x_0, eps = (grid.ravel()[:, None] for grid in np.meshgrid(0.5 * nodes, nodes))
    share = np.outer(weights, weights).ravel() / weights.sum() ** 2
    process, ops = GaussianProcess(NUMPY, make_betas("linear", T), dtype=np.float64), Operations(NUMPY)
    total = share @ prior_term(ops, process, x_0)
    for t, alpha_bar in enumerate(process.alpha_bar):
        x_t = process.q_sample(x_0, t, eps)
        known = 0.25 * alpha_bar + 1 - alpha_bar
        mean, tilde = process.q_posterior(0.25 * math.sqrt(alpha_bar) * x_t / known, x_t, t)
        exact = math.log(tilde + process.posterior(x_t, t).c_0 ** 2 * 0.25 * (1 - alpha_bar) / known)
        log_variance = np.full_like(x_t, process.p_log_variance(x_t, t, fixed) if fixed else exact)
        times = np.full(len(x_0), t)
        total += share @ bound_term(ops, process, "points", x_0, x_t, times, mean, log_variance)[0]
    return float(total)


@pytest.mark.parametrize("T", [25, 100])
def test_the_bound_of_a_gaussian_is_tight(T: int) -> None:
    """Then p(x_{t−1} | x_t) is the true reverse step: L is the entropy and KL(q(x_T) ‖ N(0, 1)), at any T."""
    alpha_bar = np.prod(1 - make_betas("linear", T))
    variance = 0.25 * alpha_bar + 1 - alpha_bar
    gap = 0.5 * (variance - 1 - math.log(variance)) / math.log(2)
    assert bound_of_a_gaussian(T, None) == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * 0.25) + gap, rel=1e-9)


@pytest.mark.parametrize("fixed", ["large", "small"])
def test_a_fixed_variance_loosens_the_bound(fixed: Variance) -> None:
    """L with the true variance is the least there is for the true mean."""
    assert bound_of_a_gaussian(100, fixed) > bound_of_a_gaussian(100, None) + 0.01


def test_prior_term_is_the_kl_to_the_standard_normal() -> None:
    x_0 = np.array([[0.5, -1.0], [0.0, 0.0]])
    rest = PROCESS.alpha_bar[-1]
    kl = 0.5 * (rest * x_0**2 + (1 - rest) - 1 - math.log(1 - rest))
    np.testing.assert_allclose(prior_term(Operations(NUMPY), PROCESS, x_0), kl.mean(1) / math.log(2), rtol=1e-9)
