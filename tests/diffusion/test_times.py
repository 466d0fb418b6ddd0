"""Importance sampling of t: unbiased whatever the losses, uniform until it knows enough, and the latest ten count."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.backend import Purpose, load_backend
from tinyddpm.diffusion.process import GaussianProcess, noise_to_signal
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.diffusion.times import KEPT, UNIFORM, WORDS, LogNormal, LossHistory, Uniform, make_law
from tinyddpm.errors import ConfigError

NUMPY = load_backend("numpy")


def chain(T: int) -> GaussianProcess:
    return GaussianProcess(NUMPY, np.full(T, 0.1))


def filled(losses: np.ndarray) -> LossHistory:
    """A history in which all ten losses of t are losses[t]."""
    history = LossHistory(chain(len(losses)))
    for _ in range(KEPT):
        history.hear(np.arange(len(losses)), losses)
    return history


@given(losses=st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=60))
def test_weights_undo_the_sampling_exactly(losses: list[float]) -> None:
    """Over losses of nine orders of magnitude: E[weight · 1(t = τ)] = 1/T for every τ, counting all 2³¹ words.

    The words of one t are consecutive; both ends of each run are drawn, and the neighbours of the ends.
    """
    history = filled(np.array(losses))
    T, edges = len(losses), history.edges()
    assert (edges[0], edges[-1], edges.dtype) == (0, WORDS, np.int64)
    first, last = history.at(edges[:-1]), history.at(edges[1:] - 1)
    np.testing.assert_array_equal(first[0], np.arange(T))
    np.testing.assert_array_equal(last[0], np.arange(T))
    np.testing.assert_array_equal(first[1], last[1])
    assert first[1].dtype == np.float32
    np.testing.assert_allclose(np.diff(edges) / WORDS * first[1], 1 / T, rtol=1e-6)  # weights are float32


def test_times_follow_the_root_mean_square() -> None:
    """p_t ∝ √E[L_t²], but for the uniform thousandth."""
    history = LossHistory(chain(3))
    for k in range(KEPT):
        history.hear(np.array([0, 1, 2]), np.array([1.0, 7.0 * (k % 2), 0.0]))
    root = np.array([1.0, 7 / np.sqrt(2), 0.0])
    p = (1 - UNIFORM) * root / root.sum() + UNIFORM / 3
    np.testing.assert_allclose(np.diff(history.edges()) / WORDS, p, atol=1e-9)


def test_times_are_uniform_until_each_has_ten_losses() -> None:
    history = LossHistory(chain(4))
    for _ in range(KEPT):
        history.hear(np.array([0, 1, 2]), np.array([1.0, 2.0, 3.0]))
    for _ in range(KEPT):
        t, weight = history.at(np.arange(8) * (WORDS // 8))
        np.testing.assert_array_equal(t, [0, 0, 1, 1, 2, 2, 3, 3])
        np.testing.assert_array_equal(weight, 1)
        history.hear(np.array([3]), np.array([4.0]))
    assert history.at(np.array([WORDS // 8]))[1] != 1


def test_the_latest_ten_losses_are_kept_in_order() -> None:
    history = LossHistory(chain(2))
    history.hear(np.array([1, 0, 1]), np.array([5.0, 6.0, 7.0]))
    np.testing.assert_array_equal(history.losses[1, :3], [5, 7, 0])
    history.hear(np.ones(12, int), np.arange(12.0))
    np.testing.assert_array_equal(history.losses[1], np.arange(2.0, 12.0))
    np.testing.assert_array_equal(history.counts, [1, 10])


def test_packed_is_all_of_it() -> None:
    history = LossHistory(chain(3))
    history.hear(np.array([2, 2, 0]), np.array([0.1, 0.2, 0.3]))
    other = LossHistory(chain(3))
    other.unpack(history.packed())
    assert (history.packed().shape, history.packed().dtype) == ((3, 1 + KEPT), np.float32)
    for name in ("losses", "counts"):
        assert getattr(other, name).tobytes() == getattr(history, name).tobytes()
    other.hear(np.array([2]), np.array([0.4]))
    assert history.counts[2] == 2


def test_a_weighted_mean_is_the_sum_over_times() -> None:
    """200,000 draws of losses that differ a thousandfold: mean(weight L_t) is their mean within 5 standard errors,
    which is a third of uniform sampling's at most."""
    losses = np.geomspace(1e-2, 10, 50)
    words = np.random.default_rng(0).integers(0, WORDS, 200_000)
    t, weight = filled(losses).at(words)
    drawn = weight * losses[t]
    error = drawn.std() / np.sqrt(len(words))
    assert abs(drawn.mean() - losses.mean()) < 5 * error
    assert drawn.std() < losses.std() / 3
    assert drawn.mean() == pytest.approx(losses.mean(), rel=0.01)


def test_log_normal_is_edms() -> None:
    """p_t is the mass of N(-1.2, 1.2²) between the middles of neighbouring log ratios, but for the uniform thousandth;
    the log ratios drawn have its mean and deviation, and every sample counts the same."""
    process = GaussianProcess(NUMPY, make_betas("cosine", 1000))
    law, log_ratio = LogNormal(process), np.log(noise_to_signal(process.alpha_bar))
    middle = (log_ratio[1:] + log_ratio[:-1]) / 2
    inner = np.array([NormalDist(-1.2, 1.2).cdf(value) for value in middle])
    expected = np.diff(np.concatenate([[0], inner, [1]]))
    np.testing.assert_allclose(law.p, (1 - UNIFORM) * expected + UNIFORM / 1000, rtol=1e-9)
    t, weight = law.draw(NUMPY.random(0), 0, np.arange(100_000))
    assert weight == 1.0
    # The uniform share adds at most 0.02 to either; five standard errors are 0.02.
    assert log_ratio[t].mean() == pytest.approx(-1.2, abs=0.04)
    assert log_ratio[t].std() == pytest.approx(1.2, abs=0.04)


def test_log_normal_has_a_use_for_a_chain_that_ends_without_signal() -> None:
    """The last time, of an infinite ratio, has its share of what is uniform."""
    process = GaussianProcess(NUMPY, zero_terminal_snr(make_betas("cosine", 50)))
    p = LogNormal(process).p
    assert p[-1] == pytest.approx(0.001 / 50, rel=1e-9)
    assert p.sum() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"mean": 0.5, "std": 0.6}, {"mean": -1.0, "std": 0.8}])
def test_logit_normal_has_its_density_in_the_flows_time(options: dict[str, float]) -> None:
    """p_t is the integral of the paper's density (arXiv 2403.03206, eq. 19) over the τ that are nearest, in the logit,
    to the time's own, but for the uniform thousandth: by the trapezoidal rule in τ, in 2,000 steps a time. Shares of
    100,000 draws are within five standard errors of it, and all count the same."""
    T = 64
    process = GaussianProcess(NUMPY, make_betas("flow", T))
    law = make_law(process, "logit-normal", **options)
    mean, std = options.get("mean", 0.0), options.get("std", 1.0)
    alpha, sigma = process.alpha_bar**0.5, (1 - process.alpha_bar) ** 0.5
    tau = sigma / (alpha + sigma)
    logit = np.log(tau / (1 - tau))
    middle = 1 / (1 + np.exp(-(logit[1:] + logit[:-1]) / 2))
    ends = np.concatenate([[1e-12], middle, [1 - 1e-12]])
    grid = np.linspace(ends[:-1], ends[1:], 2001)
    z = (np.log(grid / (1 - grid)) - mean) / std
    density = np.exp(-(z**2) / 2) / (std * np.sqrt(2 * np.pi) * grid * (1 - grid))
    expected = np.trapezoid(density, grid, axis=0)
    np.testing.assert_allclose(law.p, (1 - UNIFORM) * expected + UNIFORM / T, rtol=1e-5)

    t, weight = law.draw(NUMPY.random(0), 0, np.arange(100_000))
    assert weight == 1.0
    share = np.bincount(t, minlength=T) / len(t)
    assert np.all(np.abs(share - law.p) <= 5 * np.sqrt(law.p / len(t)))


@pytest.mark.parametrize("name", ["log-normal", "logit-normal"])
@pytest.mark.parametrize(
    "options", [{"std": 0.0}, {"std": float("nan")}, {"std": float("inf")}, {"mean": float("inf")}]
)
def test_a_law_that_cannot_be_is_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"mean is .* and std .*: give finite numbers, std above 0"):
        make_law(chain(4), name, **options)


def test_times_and_weights_are_those_of_the_steps_words() -> None:
    history, random = filled(np.array([1.0, 2.0, 5.0])), NUMPY.random(7)
    words = random.integers(Purpose.TIME, 5, np.arange(30), (), WORDS)
    for found, expected in zip(history.draw(random, 5, np.arange(30)), history.at(words), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_uniform_times_are_those_of_the_step() -> None:
    """They are Philox's integers for (seed, step, sample): what a device draws by itself."""
    random = NUMPY.random(7)
    t, weight = Uniform(chain(9)).draw(random, 5, np.arange(30))
    np.testing.assert_array_equal(t, random.integers(Purpose.TIME, 5, np.arange(30), (), 9))
    assert weight == 1.0
