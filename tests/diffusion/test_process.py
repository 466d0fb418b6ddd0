"""The Gaussian process: the kernel against the chain, the posterior against Bayes' rule, predictions against both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinyddpm.backend import Backend, load_backend
from tinyddpm.diffusion.process import GaussianProcess, noise_to_signal
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.errors import ConfigError

NUMPY = load_backend("numpy")

BETAS = hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(1e-5, 0.9))
"""Any schedule: 2 to 60 betas between 1e-5 and 0.9, rising or not."""

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)


def float64_process(betas: np.ndarray) -> GaussianProcess:
    return GaussianProcess(NUMPY, betas, dtype=np.float64)


@given(betas=BETAS)
def test_kernel_has_the_moments_of_the_composed_steps(betas: np.ndarray) -> None:
    """Over random schedules: one step is affine in x and eps, so means and variances compose exactly, to any t."""
    process = float64_process(betas)
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    mean, variance = one, 0.0
    for t in range(process.T):
        mean = process.q_step(mean, t, zero)
        variance = (
            float(process.q_step(one, t, zero)[0, 0]) ** 2 * variance + float(process.q_step(zero, t, one)[0, 0]) ** 2
        )
        np.testing.assert_allclose(process.q_sample(one, t, zero), mean, rtol=1e-12)
        np.testing.assert_allclose(process.q_sample(zero, t, one) ** 2, variance, rtol=1e-9)


@settings(max_examples=20)
@given(betas=BETAS, x_0=st.floats(-1, 1), seed=st.integers(0, 2**32))
def test_chain_simulated_agrees_with_the_kernel(betas: np.ndarray, x_0: float, seed: int) -> None:
    """Over random schedules, values and seeds: 5,000 chains, standardised by the kernel, look like N(0, 1).

    Mean and variance lie in intervals that hold with probability 1 − 1e-6 each: 4.9 standard errors, and for the
    variance, whose law is chi-squared and skewed, 6 of them.
    """
    n = 5000
    process = float64_process(betas)
    rng = np.random.default_rng(seed)
    start = np.full((n,), x_0)
    *_, x_end = process.chain(start, lambda t: rng.standard_normal(n))
    z = process.predict_eps(x_end, process.T - 1, start)
    assert abs(z.mean()) < 4.9 / np.sqrt(n)
    assert abs(z.var() - 1) < 6 * np.sqrt(2 / n)


@given(betas=BETAS)
def test_alpha_bar_falls_strictly_and_stays_positive(betas: np.ndarray) -> None:
    """Over random schedules: every step leaves less of the image."""
    alpha_bar = float64_process(betas).alpha_bar
    assert alpha_bar[0] < 1
    assert np.all(np.diff(alpha_bar) < 0)
    assert alpha_bar[-1] > 0


@given(betas=BETAS, data=st.data())
def test_posterior_is_bayes_rule(betas: np.ndarray, data: st.DataObject) -> None:
    """Over random schedules, times and values: the product of prior q(x_prev | x_0) and likelihood q(x_t | x_prev).

    The oracle multiplies the two Gaussians by adding precisions; it shares no formula with the process.
    """
    process = float64_process(betas)
    t = data.draw(st.integers(1, process.T - 1))
    t_prev = data.draw(st.integers(0, t - 1))
    x_0, x_t = (np.array([data.draw(st.floats(-3, 3))]) for _ in range(2))

    alpha = np.prod(1 - betas[t_prev + 1 : t + 1])
    prior_mean = np.sqrt(np.prod(1 - betas[: t_prev + 1])) * x_0
    prior_variance = 1 - np.prod(1 - betas[: t_prev + 1])
    precision = 1 / prior_variance + alpha / (1 - alpha)
    expected = (prior_mean / prior_variance + np.sqrt(alpha) / (1 - alpha) * x_t) / precision

    mean, variance = process.q_posterior(x_0, x_t, t, t_prev)
    np.testing.assert_allclose(mean, expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(variance, 1 / precision, rtol=1e-8)
    if t_prev == t - 1:
        neighbour_mean, neighbour_variance = process.q_posterior(x_0, x_t, t)
        np.testing.assert_allclose(neighbour_mean, expected, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(neighbour_variance, 1 / precision, rtol=1e-8)


@given(betas=BETAS, shape=SHAPES, data=st.data())
def test_predictions_invert_the_kernel(betas: np.ndarray, shape: tuple[int, ...], data: st.DataObject) -> None:
    """Over random schedules, shapes, times and values: x_0 comes back from (x_t, eps), and eps from (x_t, x_0)."""
    process = float64_process(betas)
    values = hnp.arrays(np.float64, shape, elements=st.floats(-3, 3))
    x_0, eps = data.draw(values), data.draw(values)
    t = data.draw(hnp.arrays(np.int64, shape[:1], elements=st.integers(0, process.T - 1)))
    x_t = process.q_sample(x_0, t, eps)
    scale = 1 / np.sqrt(process.alpha_bar.min())
    np.testing.assert_allclose(process.predict_x0(x_t, t, eps), x_0, atol=1e-12 * scale)
    np.testing.assert_allclose(process.predict_eps(x_t, t, x_0), eps, atol=1e-12 / np.sqrt(betas.min()))


@given(betas=BETAS, data=st.data())
def test_the_mean_of_p_is_that_of_eq_11(betas: np.ndarray, data: st.DataObject) -> None:
    """Over random schedules, times and values: (x_t − beta_t / √(1 − alpha_bar_t) eps) / √(1 − beta_t)."""
    process = float64_process(betas)
    t = data.draw(st.integers(0, process.T - 1))
    x_t, eps = (np.array([data.draw(st.floats(-3, 3))]) for _ in range(2))
    x_0 = process.predict_x0(x_t, t, eps)
    first = process.q_posterior(x_0, x_t, 1)[1]
    tilde = process.q_posterior(x_0, x_t, t)[1]
    eq_11 = (x_t - betas[t] / np.sqrt(1 - process.alpha_bar[t]) * eps) / np.sqrt(1 - betas[t])
    for variance, expected in (("large", betas[t] if t else first), ("small", tilde if t else first)):
        mean, found = process.p_mean_variance(x_t, t, x_0, variance=variance)
        scale = 1 / np.sqrt(process.alpha_bar[t])
        np.testing.assert_allclose(eq_11, mean, rtol=1e-9, atol=1e-11 * scale)
        assert found == pytest.approx(expected)


@given(betas=BETAS)
def test_fixed_variances_bound_the_posterior(betas: np.ndarray) -> None:
    """Over random schedules: beta-tilde <= beta; only q's, not p's, is 0 at the step to the data (section 3.2)."""
    process = float64_process(betas)
    x = np.zeros(1)
    for t in range(process.T):
        small = process.p_mean_variance(x, t, x, variance="small")[1]
        large = process.p_mean_variance(x, t, x, variance="large")[1]
        assert 0 < small <= large
        assert (process.q_posterior(x, x, t)[1] == 0) == (t == 0)


@given(betas=BETAS, fraction=st.floats(0, 1))
def test_log_variances_are_finite_and_ordered(betas: np.ndarray, fraction: float) -> None:
    """Over random schedules and fractions, at every t: the fixed ones are those of `p_mean_variance`, but at t = 0 both
    are the first posterior variance that is not 0; a learned one lies between beta-tilde, so mended, and beta."""
    process = float64_process(betas)
    x = np.zeros((1, 1))
    first = process.q_posterior(x, x, 1)[1]
    for t in range(process.T):
        small, large = (process.p_log_variance(x, t, name) for name in ("small", "large"))
        if t == 0:
            assert small == large == pytest.approx(np.log(first))
        else:
            assert large == pytest.approx(np.log(betas[t]))
            assert small == pytest.approx(np.log(process.q_posterior(x, x, t)[1]))
        learned = process.p_log_variance(x, t, np.full((1, 1), fraction))
        assert learned == pytest.approx((1 - fraction) * small + fraction * np.log(betas[t]))
        many = process.p_log_variance(np.zeros((2, 1)), np.full(2, t), np.full((2, 1), fraction))
        np.testing.assert_allclose(many, np.broadcast_to(learned, (2, 1)), rtol=1e-12)
        for name, one in (("small", small), ("large", large)):
            np.testing.assert_allclose(process.p_log_variance(np.zeros((2, 1)), np.full(2, t), name), [[one], [one]])
        for variance in ("small", "large", np.full((1, 1), fraction)):
            found = process.p_mean_variance(x, t, x, None, variance)[1]
            assert found == pytest.approx(np.exp(process.p_log_variance(x, t, variance)))


@given(betas=BETAS, data=st.data())
def test_one_time_or_one_per_sample_is_the_same(betas: np.ndarray, data: st.DataObject) -> None:
    """Over random schedules and times: an int t acts as the array of that t, in every function."""
    process = float64_process(betas)
    t = data.draw(st.integers(0, process.T - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    a, b, ts = rng.standard_normal((3, 2, 2, 1)), rng.standard_normal((3, 2, 2, 1)), np.full(3, t)
    for f in (process.q_step, process.q_sample, process.predict_x0, process.predict_eps):
        np.testing.assert_allclose(f(a, t, b), f(a, ts, b), rtol=1e-12)
    for one, many in zip(process.level(a, t), process.level(a, ts), strict=True):
        np.testing.assert_array_equal(np.full((3, 1, 1, 1), one), many)
    for f in (process.q_posterior, process.p_mean_variance):
        order = (a, b, t) if f == process.q_posterior else (a, t, b)
        orders = (a, b, ts) if f == process.q_posterior else (a, ts, b)
        for one, many in zip(f(*order), f(*orders), strict=True):
            np.testing.assert_allclose(np.broadcast_to(one, np.shape(many)), many, rtol=1e-12)


@given(betas=BETAS, data=st.data())
def test_variances_between_any_two_times(betas: np.ndarray, data: st.DataObject) -> None:
    """Over random schedules and times: log beta and log beta-tilde of the step from t to t_prev, and the neighbour's is
    the chain's own. To the data both are the chain's first that is not 0, and p's variance is the same everywhere."""
    process = float64_process(betas)
    x, t = np.zeros((1, 1)), data.draw(st.integers(0, process.T - 1))
    t_prev = data.draw(st.integers(-1, t - 1))
    c = process.posterior(x, t, t_prev)
    first = process.q_posterior(x, x, 1)[1]
    for variance, expected in {"large": c.beta, "small": c.beta_tilde}.items():
        found = process.p_log_variance(x, t, variance, t_prev)
        assert found == pytest.approx(np.log(expected if t_prev >= 0 else first))
        assert process.p_mean_variance(x, t, x, t_prev, variance)[1] == pytest.approx(np.exp(found))
        assert process.p_log_variance(x, t, variance, t - 1) == pytest.approx(process.p_log_variance(x, t, variance))
    one = np.ones((1, 1))
    mean, _ = process.p_mean_variance(x, t, one, t_prev)
    np.testing.assert_array_equal(mean, process.q_posterior(one, x, t, t_prev)[0])
    low, high = process.log_variance_range(x, t, t_prev)
    assert (low, high) == (process.p_log_variance(x, t, "small", t_prev), pytest.approx(np.log(c.beta)))
    learned = process.p_log_variance(x, t, np.full((1, 1), 0.3), t_prev)
    assert learned == pytest.approx(0.7 * low + 0.3 * high)
    assert process.p_mean_variance(x, t, x, t_prev, np.full((1, 1), 0.3))[1] == pytest.approx(np.exp(learned))


def test_a_chain_of_one_step_decodes_with_its_beta() -> None:
    """There is no posterior variance that is not 0."""
    process, x = float64_process(np.array([0.3])), np.zeros((1, 1))
    assert process.p_log_variance(x, 0, "small") == process.p_log_variance(x, 0, "large") == pytest.approx(np.log(0.3))


def test_an_unknown_variance_is_refused() -> None:
    process, x = float64_process(np.array([0.1, 0.2, 0.3])), np.zeros((1, 1))
    for call in (process.p_mean_variance, lambda x, t, _, p, v: process.p_log_variance(x, t, v, p)):
        for t_prev in (None, 0, -1):
            with pytest.raises(ConfigError, match="unknown variance 'larg': did you mean 'large'"):
                call(x, 2, x, t_prev, "larg")


FUNCTIONS = {
    "q_step": (lambda p, x, t: p.q_step(x, t, x), False),
    "q_sample": (lambda p, x, t: p.q_sample(x, t, 2 * x), True),
    "predict_x0": (lambda p, x, t: p.predict_x0(x, t, 2 * x), True),
    "level": (lambda p, x, t: p.level(x, t), True),
    "predict_eps": (lambda p, x, t: p.predict_eps(x, t, x), False),
    "q_posterior": (lambda p, x, t: p.q_posterior(x, x, t), False),
    "p_mean_variance": (lambda p, x, t: p.p_mean_variance(x, t, x), False),
    "p_log_variance": (lambda p, x, t: p.p_log_variance(x, t, "small"), False),
    "log_variance_range": (lambda p, x, t: p.log_variance_range(x, t), False),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_times_outside_the_chain_are_refused(name: str) -> None:
    """One time or one of many, from the backend or not; −1 is the data where they have a value, never T − 1."""
    call, has_data = FUNCTIONS[name]
    process, x = float64_process(np.array([0.1, 0.2, 0.3])), np.ones((2, 1))
    for t in (3, np.int64(3), np.array([0, 3]), np.array([-1, 0]), -2, 1.5, np.array([0.5, 1.0])):
        with pytest.raises(ConfigError, match=r"t is -?[\d.]+"):
            call(process, x, t)
    if not has_data:
        with pytest.raises(ConfigError, match=r"t is -1: give a time from 0 to 2$"):
            call(process, x, -1)
    for kind in (np.int64, np.uint8, np.array):
        assert str(call(process, x, kind(2))) == str(call(process, x, 2))


def test_the_data_are_at_minus_1() -> None:
    process, x = float64_process(np.array([0.1, 0.2, 0.3])), np.full((2, 1), 0.7)
    for t in (-1, np.int32(-1)):
        np.testing.assert_array_equal(process.q_sample(x, t, np.ones((2, 1))), x)
        np.testing.assert_array_equal(process.predict_x0(x, t, np.ones((2, 1))), x)
        assert process.level(x, t) == (1.0, 0.0)


@pytest.mark.parametrize("t_prev", [2, 3, -2])
def test_a_step_leads_to_an_earlier_time(t_prev: int) -> None:
    process, x = float64_process(np.array([0.1, 0.2, 0.3])), np.ones((2, 1))
    with pytest.raises(ConfigError, match=rf"t_prev is {t_prev}: give a time from -1 to 1 \(-1 is the data\)"):
        process.q_posterior(x, x, 2, t_prev)


def test_chain_yields_every_step_in_order() -> None:
    process = float64_process(np.array([0.1, 0.2, 0.3]))
    steps = list(process.chain(np.ones(1), lambda t: np.full(1, float(t))))
    x_1 = np.sqrt(0.9)
    x_2 = np.sqrt(0.8) * x_1 + np.sqrt(0.2)
    np.testing.assert_allclose(np.concatenate(steps), [x_1, x_2, np.sqrt(0.7) * x_2 + 2 * np.sqrt(0.3)])


def test_a_chain_of_no_signal_before_its_end_is_refused() -> None:
    """Where two alpha_bar are 0, the step between them is 0 / 0."""
    betas = np.full(400, 0.9)
    with pytest.raises(ConfigError, match=r"is 0 from t = 323 on: give smaller betas, or"):
        GaussianProcess(load_backend("numpy"), betas)
    GaussianProcess(load_backend("numpy"), np.append(betas[:320], 1.0))


def test_noise_has_no_end_where_there_is_no_signal() -> None:
    with np.errstate(divide="raise"):
        np.testing.assert_allclose(noise_to_signal(np.array([0.8, 0.5, 0.0])), [0.5, 1, np.inf], rtol=1e-12)


def test_a_table_knows_that_all_its_numbers_are_one() -> None:
    process = float64_process(np.array([0.1, 0.2, 0.3]))
    assert process.table(np.full(3, 0.5)).constant == 0.5
    assert process.table(np.array([0.5, 0.5, 0.4])).constant is None


def test_a_process_is_told_in_a_line() -> None:
    process = float64_process(np.array([0.1, 0.2, 0.3]))
    assert repr(process) == "<GaussianProcess of 3 times, √alpha_bar from 0.9487 to 0.7099, on numpy>"


def test_float32_tables_on_other_backends(other_backend: Backend) -> None:
    """float32 arithmetic on any backend stays within float32 rounding of the float64 process, over a whole schedule."""
    betas = make_betas("linear", 1000)
    process, exact = GaussianProcess(other_backend, betas), float64_process(betas)
    rng = np.random.default_rng(0)
    x_0, eps = rng.uniform(-1, 1, (50, 3)), rng.standard_normal((50, 3))
    t = rng.integers(0, 1000, 50)
    on = other_backend.asarray
    x_t = process.q_sample(on(x_0.astype(np.float32)), on(t), on(eps.astype(np.float32)))
    assert x_t.dtype == other_backend.xp.float32
    np.testing.assert_allclose(other_backend.to_numpy(x_t), exact.q_sample(x_0, t, eps), rtol=1e-6, atol=1e-6)
