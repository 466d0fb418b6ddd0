"""Each sampler's error falls with the number of steps at its theoretical order, the denoiser being exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.flow import NEAR, PROCESS, flow, sampled, uneven_pairs, units
from helpers.gaussians import THREE, Floats, Mixture
from tinyddpm.backend import load_backend
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.samplers import ancestral, ddim, ddim_encode, dpmpp_2m, dpmpp_2m_sde, euler, heun, make_pairs, unipc

STEPS = (32, 64, 128, 256)
FINE_STEPS = (128, 256, 512, 1024)


def order(errors: list[float]) -> float:
    """The slope of a straight line through errors, each at twice the steps of the one before, in logarithms."""
    return -float(np.polyfit(np.arange(len(errors)), np.log2(errors), 1)[0])


def distance(a: Floats, b: Floats) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.fixture(scope="module")
def ends() -> tuple[Floats, Floats]:
    """64 points at T − 1, and where the probability flow leads them by a fine integration that shares no code."""
    x = np.random.default_rng(0).standard_normal((64, 2))
    return x, flow(NEAR, x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "options", "theory"),
    [
        (ddim, {}, 1),
        (euler, {}, 1),
        (dpmpp_2m, {}, 2),
        (heun, {}, 2),
        (heun, {"over": "tau"}, 2),
        (unipc, {"order": 1}, 2),
        (unipc, {"order": 2}, 3),
    ],
)
def test_deterministic_samplers_follow_the_flow(
    ends: tuple[Floats, Floats], sampler: Callable[..., Any], options: dict[str, Any], theory: int
) -> None:
    """On a mixture, the distance to the flow's own end falls with the steps at the solver's order, to a tenth.

    It is taken at time 0, before the step to the data, whose length does not depend on the number of steps.
    UniPC's corrector gives it one order more than its predictor.
    """
    x, exact = ends
    errors = [distance(sampled(sampler, NEAR, x, uneven_pairs(steps), **options)[-2].x, exact) for steps in STEPS]
    assert order(errors) == pytest.approx(theory, abs=0.1)
    assert errors[-1] < 0.01


def test_a_third_point_makes_unipc_better_still(ends: tuple[Floats, Floats]) -> None:
    """Of order 3, it would be fourth order but for its first step, third; it is ahead of order 2 at any length."""
    x, exact = ends
    two, three = (
        [distance(sampled(unipc, NEAR, x, uneven_pairs(steps), order=p)[-2].x, exact) for steps in STEPS]
        for p in (2, 3)
    )
    assert order(three) > 2.9
    assert all(3 * b < a for a, b in zip(two, three, strict=True))


@pytest.mark.parametrize("sampler", [ddim, euler, dpmpp_2m, dpmpp_2m_sde, heun, unipc])
def test_the_step_to_the_data_is_the_predicted_x0(sampler: Callable[..., Any]) -> None:
    """At the data all solvers say the same, x = x_0 as predicted at the last time, to rounding."""
    x = np.random.default_rng(1).standard_normal((8, 2))
    last = sampled(sampler, NEAR, x, uneven_pairs(16), lambda t: np.full((8, 2), np.nan if t == 0 else 0.3))[-1]
    np.testing.assert_allclose(last.x, last.x_0, rtol=1e-9, atol=1e-12)
    assert np.isfinite(last.x).all()


def test_the_way_up_and_down_again_ends_closer_with_more_steps(ends: tuple[Floats, Floats]) -> None:
    """DDIM's inversion: encoded to x_T and decoded over the same times, data come back to the first order."""
    x_0 = ends[1]
    errors = []
    for steps in STEPS:
        pairs = uneven_pairs(steps)
        *_, up = ddim_encode(PROCESS, NEAR.denoiser(PROCESS), x_0, pairs)
        errors.append(distance(sampled(ddim, NEAR, up.x, pairs)[-1].x, x_0))
    assert order(errors) == pytest.approx(1, abs=0.1)
    assert errors[-1] < 0.01


def test_encoding_leads_to_the_noise_that_the_flow_started_from(ends: tuple[Floats, Floats]) -> None:
    """From the flow's end at time 0, so without the step from the data, the way up finds its start: first order."""
    x, exact = ends
    errors = []
    for steps in STEPS:
        *_, up = ddim_encode(PROCESS, NEAR.denoiser(PROCESS), exact, uneven_pairs(steps)[:-1])
        assert up.t == uneven_pairs(steps)[0][1]
        errors.append(distance(up.x, x))
    assert order(errors) == pytest.approx(1, abs=0.1)


MEAN, VARIANCE = 0.7, 0.25


def law(sampler: Callable[..., Any], steps: int, **options: Any) -> tuple[float, float]:
    """The mean and variance at time 0 of what a sampler draws of N(MEAN, VARIANCE), exactly: no draws, no statistics.

    Its denoiser being affine, so is the whole sampler, in x_T and in the noise of every step. x_T has the law that the
    process gives it.
    """
    gaussian = Mixture(np.ones(1), np.full((1, 2), MEAN), VARIANCE * np.eye(2)[None])
    pairs = uneven_pairs(steps)
    x, unit = units(pairs)
    x_0 = sampled(sampler, gaussian, x, pairs, unit, **options)[-2].x[:, 0]
    shift = x_0[-1]
    a, b = x_0[0] - shift, x_0[1:-1] - shift
    alpha_bar = PROCESS.alpha_bar[-1]
    return shift + a * alpha_bar**0.5 * MEAN, a**2 * (alpha_bar * VARIANCE + 1 - alpha_bar) + np.sum(b**2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "options", "theory"),
    [
        (ancestral, {"variance": "small"}, 1),
        (ancestral, {"variance": "large"}, 1),
        (ddim, {"eta": 0.5}, 1),
        (ddim, {"eta": 1.0}, 1),
        (dpmpp_2m_sde, {}, 2),
        (dpmpp_2m, {}, 2),
        (euler, {}, 1),
        (heun, {}, 2),
        (heun, {"over": "tau"}, 2),
    ],
)
def test_the_law_of_the_samples_converges(sampler: Callable[..., Any], options: dict[str, Any], theory: int) -> None:
    """On a Gaussian, the error in variance falls with the steps at the sampler's order, to a tenth; the mean is right.

    The reference is the process' own law at time 0. The mean is right for any number of steps: all are exact there.
    """
    alpha_bar = PROCESS.alpha_bar[0]
    errors = []
    for steps in FINE_STEPS:
        mean, variance = law(sampler, steps, **options)
        assert mean == pytest.approx(alpha_bar**0.5 * MEAN, abs=1e-11)
        errors.append(abs(variance / (alpha_bar * VARIANCE + 1 - alpha_bar) - 1))
    assert order(errors) == pytest.approx(theory, abs=0.1)


@pytest.mark.parametrize(("sampler", "steps"), [(dpmpp_2m_sde, 40), (dpmpp_2m, 40), (heun, 40), (unipc, 20)])
def test_mixture_is_reproduced_in_few_steps(sampler: Callable[..., Any], steps: int) -> None:
    """20,000 draws with the exact denoiser have the mixture's moments and modes' weights, to 0.01 for the steps."""
    n = 20_000
    process = GaussianProcess(load_backend("numpy"), make_betas("linear", 1000), dtype=np.float64)
    rng = np.random.default_rng(11)
    pairs = make_pairs("karras", process.alpha_bar, steps)
    x = rng.standard_normal((n, 2))
    *_, last = sampler(process, THREE.denoiser(process), x, pairs, lambda t: rng.standard_normal((n, 2)))
    THREE.assert_reproduced(last.x, bias=0.01)
