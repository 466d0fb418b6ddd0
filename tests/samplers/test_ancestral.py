"""Ancestral sampling draws what it should from an exact denoiser."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.gaussians import THREE, Mixture
from tinyddpm import registry
from tinyddpm.backend import load_backend
from tinyddpm.diffusion.denoiser import Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.errors import ConfigError
from tinyddpm.samplers import ancestral, trailing_pairs

NUMPY = load_backend("numpy")


def drawn(mixture: Mixture, process: GaussianProcess, n: int, steps: int | None = None, **options: str) -> np.ndarray:
    rng = np.random.default_rng(11)
    x = rng.standard_normal((n, 2))
    pairs = trailing_pairs(process.T, steps)
    *_, last = ancestral(process, mixture.denoiser(process), x, pairs, lambda t: rng.standard_normal((n, 2)), **options)
    return last.x


@cache
def drawn_from_three(schedule: str, variance: str) -> np.ndarray:
    """20,000 draws by all of 1000 steps, from `THREE`."""
    process = GaussianProcess(NUMPY, make_betas(schedule, 1000), dtype=np.float64)
    return drawn(THREE, process, 20_000, variance=variance)


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_mixture_is_reproduced(schedule: str, variance: str) -> None:
    """20,000 draws with the exact denoiser have the mixture's moments and modes' weights, to 0.01 for the steps."""
    THREE.assert_reproduced(drawn_from_three(schedule, variance), bias=0.01)


@pytest.mark.slow
def test_each_mode_keeps_its_shape() -> None:
    """Within each mode, the covariance is the mode's own, to 5 standard errors plus a tenth of it for the steps."""
    x = drawn_from_three("linear", "small")
    modes = THREE.modes(x)
    for k, covariance in enumerate(THREE.covariances):
        mine = x[modes == k] - x[modes == k].mean(0)
        products = mine[:, :, None] * mine[:, None, :]
        error = 5 * products.std(0) / np.sqrt(len(mine)) + 0.1 * np.abs(covariance).max()
        assert np.all(np.abs(products.mean(0) - covariance) < error)


@pytest.mark.parametrize("steps", [200, 50])
def test_gaussian_variance_follows_the_recursion(steps: int) -> None:
    """For Gaussian data everything is affine: the sampler's variance has a recursion of its own, exact for any spacing.

    The sample variance of 40,000 draws agrees with it within 6 standard errors, also where respacing makes it wrong.
    """
    n, sigma2 = 40_000, 0.09
    single = Mixture(np.ones(1), np.zeros((1, 2)), sigma2 * np.eye(2)[None])
    process = GaussianProcess(NUMPY, make_betas("linear", 200), dtype=np.float64)
    x = drawn(single, process, n, steps=steps, variance="small")

    alpha_bar = np.concatenate([[1.0], process.alpha_bar])
    variance = 1.0
    for t, t_prev in trailing_pairs(200, steps):
        a_t, a_prev = alpha_bar[t + 1], alpha_bar[t_prev + 1]
        beta = 1 - a_t / a_prev
        gain = np.sqrt(a_t) * sigma2 / (a_t * sigma2 + 1 - a_t)  # E[x_0 | x_t] = gain x_t
        slope = (np.sqrt(a_prev) * beta * gain + np.sqrt(a_t / a_prev) * (1 - a_prev)) / (1 - a_t)
        variance = slope**2 * variance + (1 - a_prev) / (1 - a_t) * beta
    assert abs(x.var() / variance - 1) < 6 * np.sqrt(2 / (2 * n))


def test_last_step_is_free_of_noise() -> None:
    """What noise there is for the last step does not matter: not even NaN reaches the sample."""
    process = GaussianProcess(NUMPY, make_betas("linear", 50), dtype=np.float64)
    x = np.ones((4, 2))
    noise = lambda t: np.full((4, 2), np.nan if t == 0 else 0.3)  # noqa: E731
    *before, last = ancestral(process, THREE.denoiser(process), x, trailing_pairs(50), noise)
    assert last.t == 0
    assert np.isfinite(last.x).all()
    np.testing.assert_allclose(last.x, last.x_0)
    assert len(before) == 49


@pytest.mark.parametrize("steps", [1000, 20, 1])
def test_a_learned_variance_lies_between_the_respaced_ones(steps: int) -> None:
    """Fractions 0, 1 and ½ are beta-tilde, beta and their geometric mean of the steps taken, neighbours or not."""
    process = GaussianProcess(NUMPY, make_betas("linear", 1000), dtype=np.float64)
    denoiser = THREE.denoiser(process)
    x = np.random.default_rng(2).standard_normal((4, 2))
    fraction = np.array([[0.0, 1.0], [0.5, 0.5], [0.0, 0.0], [1.0, 1.0]])

    def learned(x_t: np.ndarray, t: int) -> Prediction:
        return Prediction(*denoiser(x_t, t), fraction)

    noise = lambda t: np.ones((4, 2))  # noqa: E731
    steps_of = {}
    for variance, source in (("large", denoiser), ("small", denoiser), ("auto", learned), ("learned", learned)):
        first = next(ancestral(process, source, x, trailing_pairs(1000, steps), noise, variance=variance))
        steps_of[variance] = first.x
    np.testing.assert_array_equal(steps_of["auto"], steps_of["learned"])
    if steps == 1:  # the last step samples no noise
        np.testing.assert_array_equal(steps_of["auto"], steps_of["large"])
        return
    t, t_prev = trailing_pairs(1000, steps)[0]
    mean, beta = process.p_mean_variance(x, t, denoiser(x, t).x_0, t_prev, "large")
    _, tilde = process.p_mean_variance(x, t, denoiser(x, t).x_0, t_prev, "small")
    expected = beta**fraction * tilde ** (1 - fraction)
    np.testing.assert_allclose(steps_of["auto"] - mean, np.sqrt(expected), rtol=1e-9)


@given(T=st.integers(1, 2000), data=st.data())
def test_pairs_cover_the_chain(T: int, data: st.DataObject) -> None:
    """Over all lengths and numbers of steps: pairs join up from T − 1 to −1, strictly falling, as many as asked for."""
    steps = data.draw(st.integers(1, T))
    pairs = trailing_pairs(T, steps)
    assert len(pairs) == steps
    assert pairs[0][0] == T - 1
    assert pairs[-1][1] == -1
    assert all(t > t_prev for t, t_prev in pairs)
    assert all(a[1] == b[0] for a, b in pairwise(pairs))
    gaps = [t - t_prev for t, t_prev in pairs]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("steps", [0, 1001, -3])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"{steps} sampling steps on a chain of 1000: give between 1 and 1000"):
        trailing_pairs(1000, steps)


def test_unknown_variance_is_refused() -> None:
    process = GaussianProcess(NUMPY, make_betas("linear", 50))
    arguments = (process, THREE.denoiser(process), np.ones((1, 2)), trailing_pairs(50), lambda t: np.zeros((1, 2)))
    with pytest.raises(ConfigError, match="'large'"):
        list(registry.build("samplers", "ancestral", arguments, {"variance": "medium"}))
