"""The whole bound: the closed form where there is one, near the truth for a long chain, and honest in its errors."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest

from helpers.gaussians import THREE, Floats, Mixture
from helpers.posterior import Exact, drawn, log_density
from tinyddpm.backend import Purpose, Random, load_backend
from tinyddpm.diffusion.bound import Bound, Times, all_times, estimate, some_times, together, variational_bound
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.errors import ConfigError
from tinyddpm.ops import Operations

NUMPY = load_backend("numpy")
OPS = Operations(NUMPY)
GAUSSIAN = Mixture(np.ones(1), np.array([[0.3, -0.5]]), np.array([np.diag([0.25, 0.04])]))
"""Its two elements are independent, so that a diagonal variance is the true one."""


def chain(T: int) -> GaussianProcess:
    return GaussianProcess(NUMPY, make_betas("linear", T), dtype=np.float64)


def quadrature(T: int) -> tuple[Bound, Floats]:
    """The bound of `GAUSSIAN` at the nodes of x_0 and eps, and their weights.

    All terms are quadratic in both, and Gauss and Hermite's two nodes integrate these exactly.
    """
    nodes = np.array(list(product([-1.0, 1.0], repeat=4)))
    x_0, eps = GAUSSIAN.mean + nodes[:, :2] * np.sqrt(np.diag(GAUSSIAN.covariance)), nodes[:, 2:]
    process = chain(T)
    bound = variational_bound(OPS, process, "points", Exact(process, GAUSSIAN), x_0, all_times(T), lambda t, draw: eps)
    return bound, np.full(16, 1 / 16)


def sampled(
    mixture: Mixture, x_0: Floats, T: int, times: Times | None = None, draws: int = 1, numbers: range | None = None
) -> Bound:
    process = chain(T)
    random = NUMPY.random(3)
    numbers = range(len(x_0)) if numbers is None else numbers

    def noise(t: int, draw: int) -> Floats:
        return random.normal(Purpose.BOUND_NOISE, t, numbers, (2,), draw).astype(np.float64)

    return variational_bound(OPS, process, "points", Exact(process, mixture), x_0, times or all_times(T), noise, draws)


@pytest.mark.parametrize("T", [25, 100])
def test_each_term_of_a_gaussian_is_its_closed_form(T: int) -> None:
    """With the true variance V of the step back the bound is tight: H(x_0) + KL(q(x_T) ‖ N(0, I)), and

    E L_t = ½ log (V / beta-tilde), E L_0 = ½ log 2πe V,  V = beta-tilde + c_0² Var[x_0 | x_t].
    """
    process, variance = chain(T), np.diag(GAUSSIAN.covariance)
    bound, share = quadrature(T)
    assert bound.terms.shape == (16, 1, T)
    last = process.alpha_bar[-1]
    spread = last * variance + 1 - last
    prior = 0.5 * np.mean(spread + last * GAUSSIAN.mean**2 - 1 - np.log(spread)) / math.log(2)
    entropy = 0.5 * np.mean(np.log2(2 * math.pi * math.e * variance))
    known = 0.5 * np.mean(last * (variance + GAUSSIAN.mean**2 - 1) - math.log1p(-last)) / math.log(2)
    assert bound.parts()["total"].mean == pytest.approx(entropy + prior, rel=1e-9)
    assert share @ bound.prior == pytest.approx(known, rel=1e-9)
    for t, alpha_bar in enumerate(process.alpha_bar):
        c = process.posterior(np.zeros((1, 2)), t)
        left = variance * (1 - alpha_bar) / (alpha_bar * variance + 1 - alpha_bar)
        v = c.beta_tilde + c.c_0**2 * left
        term = 0.5 * np.mean(np.log2(v / c.beta_tilde if t else 2 * math.pi * math.e * v))
        assert share @ bound.terms[:, 0, t] == pytest.approx(term, rel=1e-9, abs=1e-12)
        assert share @ bound.mse_x_0[:, t] == pytest.approx(left.mean(), rel=1e-9)
        assert share @ bound.mse_eps[:, t] == pytest.approx(left.mean() * alpha_bar / (1 - alpha_bar), rel=1e-9)


def gaps_to_the_truth(x_0: Floats, T: int) -> Floats:
    """L − (−log2 p(x_0)) of points of `THREE`; the noise is integrated by Gauss and Hermite's 8 nodes in each element.

    12 or 16 nodes change the mean of 20 points by less than a tenth, at any T below.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    share = np.outer(weights, weights).ravel() / weights.sum() ** 2
    eps = np.tile(np.array(list(product(nodes, repeat=2))), (len(x_0), 1))
    process, each = chain(T), np.repeat(x_0, len(share), axis=0)
    denoiser = Exact(process, THREE)
    bound = variational_bound(OPS, process, "points", denoiser, each, all_times(T), lambda t, draw: eps)
    total = (bound.prior + bound.terms.sum(axis=(1, 2))).reshape(len(x_0), -1) @ share
    return total + log_density(THREE, x_0) / (2 * math.log(2))


@pytest.mark.slow
def test_the_bound_nears_the_truth_as_the_chain_grows() -> None:
    """On three modes, the same 150 points: its distance is above 0, and falls to less than half from T to 4 T.

    Each in the mean, by 5 standard errors over the points: a false alarm below 1e-6.
    """
    x_0 = drawn(THREE, 150, seed=0)
    gaps = [gaps_to_the_truth(x_0, T) for T in (25, 100, 400)]
    above = [*gaps, *(gap / 2 - next_gap for gap, next_gap in pairwise(gaps))]
    for found in above:
        assert found.mean() > 5 * found.std(ddof=1) / 150**0.5


def test_the_parts_make_the_whole() -> None:
    """Over all times and over some: L_T + ΣL_t + L_0, the steps' table, and the last rate with L_0, are the total."""
    x_0 = drawn(THREE, 20, seed=1)
    for times in (all_times(30), some_times(30, 8, Random(np, 5))):
        bound = sampled(THREE, x_0, 30, times, draws=2)
        parts, steps = bound.parts(), bound.steps()
        total = parts["total"].mean
        assert total == pytest.approx(sum(parts[name].mean for name in ("L_T", "L_t", "L_0")), rel=1e-12)
        assert total == pytest.approx(parts["L_T"].mean + np.dot(steps["bits"], steps["weight"]), rel=1e-12)
        assert total == pytest.approx(steps["rate"][0] + steps["bits"][0], rel=1e-12)
        assert parts["total"].se_times == parts["L_t"].se_times
        assert (parts["total"].se_times is None) == (len(times.t) == 30)
        assert parts["total"].se == pytest.approx(math.hypot(parts["total"].se_samples, parts["L_t"].se_times or 0))
        assert np.all(np.diff(steps["rate"]) < 0)
        assert steps["rate"][-1] == pytest.approx(parts["L_T"].mean, abs=1e-12)
        columns = {"t": times.t, "weight": times.weight, "mse_eps": bound.mse_eps.mean(axis=0)}
        columns |= {"mse_x_0": bound.mse_x_0.mean(axis=0), "rmse_x_0": bound.mse_x_0.mean(axis=0) ** 0.5}
        columns["se"] = bound.terms.mean(axis=1).std(axis=0, ddof=1) / 20**0.5
        assert set(steps) == {"bits", "rate", *columns}
        for name, expected in columns.items():
            np.testing.assert_allclose(steps[name], expected, rtol=1e-12)


def test_samples_are_their_own_whatever_the_batch() -> None:
    x_0 = drawn(THREE, 7, seed=2)
    whole = sampled(THREE, x_0, 25, draws=2)
    parts = [sampled(THREE, x_0[part.start : part.stop], 25, draws=2, numbers=part) for part in (range(3), range(3, 7))]
    joined = together(parts)
    np.testing.assert_array_equal(joined.times, whole.times)
    np.testing.assert_array_equal(joined.terms, whole.terms)
    np.testing.assert_array_equal(joined.prior, whole.prior)
    np.testing.assert_array_equal(joined.mse_eps, whole.mse_eps)


class Told(Random):
    """Random numbers that are told: for each stratum, the first and the second integer."""

    def __init__(self, numbers: list[tuple[int, int]]) -> None:
        super().__init__(np, 0)
        self.numbers, self.highs = numbers, [[0, 0] for _ in numbers]

    def integers(self, purpose, step, samples, shape, high, layer=0):  # type: ignore[no-untyped-def]
        self.highs[step][samples[0]] = high
        return np.array([[self.numbers[step][samples[0]]]])


def test_some_times_are_unbiased_and_so_is_their_error() -> None:
    """Over all choices of 4 of 11 times, all equally likely: in their mean, sum and squared error are exact."""
    T, terms = 12, np.random.default_rng(0).normal(size=(1, 1, 12)) ** 2
    probe = Told([(0, 0), (0, 0)])
    some_times(T, 4, probe)
    choices = list(product(*(product(range(first), range(second)) for first, second in probe.highs)))
    assert len(choices) > 50
    sums, squares = [], []
    for choice in choices:
        times = some_times(T, 4, Told(list(choice)))
        found = Bound(times, np.zeros(1), terms[:, :, times.t], np.zeros((1, 5)), np.zeros((1, 5))).parts()["L_t"]
        sums.append(found.mean)
        assert found.se_times is not None
        squares.append(found.se_times**2)
    assert np.mean(sums) == pytest.approx(terms[0, 0, 1:].sum(), rel=1e-12)
    assert np.mean(squares) == pytest.approx(np.var(sums), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("T", [3, 4, 7, 40, 1000])
def test_some_times_are_distinct_and_stand_for_all(T: int) -> None:
    """Over every even number of times below T (every 100th for long chains) and three seeds."""
    for count in range(2, T, 2 if T < 50 else 100):
        for seed in range(3):
            t, weight = some_times(T, count, Random(np, seed))
            assert len(t) == len(weight) == count + 1
            assert t[0] == 0
            assert t[-1] < T
            assert np.all(np.diff(t) > 0)
            assert weight.sum() == T


def test_strata_end_at_squares() -> None:
    """10 of 1,000 times, and each has its two; but where squares are close, a stratum has two times."""
    t, weight = some_times(1001, 20, Random(np, 0))
    ends = np.cumsum(2 * weight[1::2])
    assert t[0] == 0
    np.testing.assert_array_equal(ends, 10 * np.arange(1, 11) ** 2)
    np.testing.assert_array_equal(np.searchsorted(ends, t[1:]), np.repeat(np.arange(10), 2))
    np.testing.assert_array_equal(some_times(8, 6, Random(np, 0)).weight, [1, 1, 1, 1, 1, 1.5, 1.5])
    np.testing.assert_array_equal(some_times(8, 2, Random(np, 0)).weight, [1, 3.5, 3.5])


@pytest.mark.parametrize("count", [-2, 0, 5, 10, 12])
def test_refuses_times_that_make_no_strata(count: int) -> None:
    with pytest.raises(ConfigError, match=f"^cannot estimate the bound at {count} of the times 1 to 9: give an even"):
        some_times(10, count, Random(np, 0))


def test_standard_errors_are_those_of_the_mean() -> None:
    """Samples of variance 1, 3 draws of variance 4: in the mean over 4000 estimates of 10 samples, the squares of both

    errors are (1 + 4/3) / 10 and 4 / 30, within 5 standard errors; and the first is the variance of the mean.
    """
    rng = np.random.default_rng(0)
    found = [estimate(rng.normal(size=(10, 1)) + 2 * rng.normal(size=(10, 3))) for _ in range(4000)]
    for squares, exact in (
        ([each.se_samples**2 for each in found], (1 + 4 / 3) / 10),
        ([each.se_noise**2 for each in found], 4 / 30),
        ([each.mean**2 for each in found], (1 + 4 / 3) / 10),
    ):
        assert abs(np.mean(squares) - exact) < 5 * np.std(squares) / 4000**0.5


def test_errors_that_cannot_be_known_are_none() -> None:
    assert estimate(np.ones((1, 1))) == (1.0, None, None, None)
    assert estimate(np.ones((3, 1)))[2] is None
    assert estimate(np.array([[0.0], [2.0]])) == (1.0, pytest.approx(1.0), None, None)
    assert estimate(np.array([[0.0, 2.0]])) == (1.0, None, pytest.approx(1.0), None)
    assert estimate(np.ones((1, 1))).se is None


def test_the_decoder_is_the_one_asked_for() -> None:
    """A pixel's bin has a mass below 1, a point a density that is near 255 / 2 times as much; later terms are alike."""
    process, x_0 = chain(25), np.array([[0.2, -0.6], [1 / 3, 0.0]])
    found = []
    for decoder in ("pixels", "points"):
        exact = Exact(process, GAUSSIAN)
        bound = variational_bound(OPS, process, decoder, exact, x_0, all_times(25), lambda t, draw: np.ones((2, 2)))
        found.append(bound.terms)
    pixels, points = found
    np.testing.assert_allclose(pixels[..., 0] - points[..., 0], math.log2(255 / 2), atol=0.01)
    np.testing.assert_array_equal(pixels[..., 1:], points[..., 1:])


def test_the_variance_is_the_one_asked_for() -> None:
    """With the true mean no fixed variance is better than the true one; and what is not learned is large."""
    x_0 = drawn(GAUSSIAN, 200, seed=4)
    process = chain(50)
    eps = np.random.default_rng(1).normal(size=(50, 200, 2))
    exact = Exact(process, GAUSSIAN)

    def total(denoiser, variance):  # type: ignore[no-untyped-def]
        found = variational_bound(
            OPS, process, "points", denoiser, x_0, all_times(50), lambda t, draw: eps[t], variance=variance
        )
        return found.parts()["total"].mean

    fixed = GAUSSIAN.denoiser(process)
    assert total(fixed, None) == total(fixed, "large") == pytest.approx(total(exact, "large"), rel=1e-12)
    assert total(exact, None) < min(total(exact, "large"), total(exact, "small"))
