"""Guided sampling where its law is known: two Gaussians, and mixtures with their scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.affine import LINEAR
from helpers.flow import PROCESS, RATIOS, refused, uneven_pairs, units
from helpers.gaussians import THREE, Floats, Mixture
from helpers.posterior import log_density
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.guidance import Lone, auto, cfg
from tinyddpm.samplers import ancestral, ddim, dpmpp_2m, dpmpp_2m_sde, heun, unipc

W = 2.0
MEAN_C, MEAN_U = np.array([0.7, 0.4]), np.array([0.2, 0.4])
VARIANCE_C, VARIANCE_U = np.array([0.3, 0.09]), np.array([0.3, 0.5])
"""Conditional and unconditional differ in mean alone along one axis, in variance alone along the other."""

TOWARDS = MEAN_U + W * (MEAN_C - MEAN_U)
STEPS = (64, 128, 256, 512)


def side(mean: Floats, variance: Floats) -> Lone:
    return Lone(PROCESS, Mixture(np.ones(1), mean[None], np.diag(variance)[None]).denoiser(PROCESS))


def guided(scale: float = W) -> Denoiser:
    return cfg(side(MEAN_C, VARIANCE_C), side(MEAN_U, VARIANCE_U), scale=scale)


def growth(y: Floats) -> Floats:
    """G(y) = Π_i (s_i² + y)^(w_i), y = σ²: where d(x̄ − m) = (x̄ − m) Σ_i w_i / (s_i² + y) dy leads."""
    return (VARIANCE_C + y) ** W * (VARIANCE_U + y) ** (1 - W)


def known_law(stochastic: bool) -> tuple[Floats, Floats]:
    """The mean and variance at time 0 of what starts as N(0, I) at T − 1, by the guided score's flow or reverse SDE.

    The guided score is −(x̄ − m) Σ_i w_i / (s_i² + y) for x̄ = x / √alpha_bar. The flow halves its slope: x̄ − m goes
    with √G. The SDE does not, x̄ − m goes with G, and dy of noise is added, ∫ G^(−2) dy = ∫ (z + d)² / z⁴ dz for
    w = 2, with z = s_c² + y and d = s_u² − s_c².
    """
    last, first = (np.array(RATIOS[i] ** 2) for i in (0, -1))
    alpha_bar = 1 / (1 + RATIOS[[0, -1]] ** 2)
    share = growth(last) / growth(first)
    if not stochastic:
        mean, variance = TOWARDS * (1 - share**0.5), share / alpha_bar[1]
    else:
        d = VARIANCE_U - VARIANCE_C

        def integral(y: Floats) -> Floats:
            z = VARIANCE_C + y
            return -1 / z - d / z**2 - d**2 / (3 * z**3)

        mean = TOWARDS * (1 - share)
        variance = share**2 / alpha_bar[1] + growth(last) ** 2 * (integral(first) - integral(last))
    return alpha_bar[0] ** 0.5 * mean, alpha_bar[0] * variance


def drawn_law(sampler: Callable[..., Any], steps: int, **options: Any) -> tuple[Floats, Floats]:
    """The mean and variance at time 0 of what a sampler draws, exactly: it is affine in x_T and the noise."""
    pairs = uneven_pairs(steps)
    x, unit = units(pairs)
    *_, before, _ = sampler(PROCESS, guided(), x, pairs, unit, **options)
    return before.x[-1], np.sum((before.x[:-1] - before.x[-1]) ** 2, axis=0)


@pytest.mark.parametrize(
    ("sampler", "options", "stochastic", "theory"),
    [
        (ancestral, {"variance": "large"}, True, 1),
        (ancestral, {"variance": "small"}, True, 1),
        (ddim, {}, False, 1),
        (ddim, {"eta": 1.0}, True, 1),
        (dpmpp_2m, {}, False, 2),
        (dpmpp_2m_sde, {}, True, 2),
        (heun, {}, False, 2),
        (unipc, {}, False, 3),
    ],
)
def test_every_sampler_draws_the_guided_law(
    sampler: Callable[..., Any], options: dict[str, Any], stochastic: bool, theory: int
) -> None:
    """The error in mean and variance falls with the steps at the sampler's order, to a fifth, towards the closed form.

    Each axis on its own: one guides the mean, beyond the conditional's; the other the spread, below it.
    """
    mean, variance = known_law(stochastic)
    errors = []
    for steps in STEPS:
        found = drawn_law(sampler, steps, **options)
        errors.append(np.abs([found[0] - mean, found[1] / variance - 1]).max())
    slope = -np.polyfit(np.arange(len(STEPS)), np.log2(errors), 1)[0]
    assert slope == pytest.approx(theory, abs=0.2)
    assert errors[-1] < 0.03
    assert mean[0] > 1.02 * MEAN_C[0]


@pytest.mark.parametrize("t", [0, 300, 999])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_guided_score_is_the_sum_of_scores(t: int, scale: float) -> None:
    """For a mode among three, −eps / sigma is ∇ ((1 − w) log p_u + w log p_c), by central differences."""
    one = Mixture(np.ones(1), THREE.means[1:2], THREE.covariances[1:2])
    x = np.random.default_rng(t).normal(0, 0.8, (16, 2))
    root, noise = LINEAR.alpha_bar[t] ** 0.5, 1 - LINEAR.alpha_bar[t]

    def log_p(mixture: Mixture, x: Floats) -> Floats:
        diffused = Mixture(mixture.weights, root * mixture.means, root**2 * mixture.covariances)
        return log_density(diffused, x, noise)

    h = 1e-5
    score = np.zeros_like(x)
    for axis in range(2):
        step = h * np.eye(2)[axis]
        for mixture, weight in ((THREE, 1 - scale), (one, scale)):
            score[:, axis] += weight * (log_p(mixture, x + step) - log_p(mixture, x - step)) / (2 * h)
    for guide in (cfg, lambda c, u, scale: auto(c, None, weak=u, scale=scale)):
        x_0, eps = guide(Lone(LINEAR, one.denoiser(LINEAR)), Lone(LINEAR, THREE.denoiser(LINEAR)), scale=scale)(x, t)
        np.testing.assert_allclose(-eps / noise**0.5, score, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(LINEAR.q_sample(x_0, t, eps), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m, heun, unipc])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_scale_0_and_1_are_the_two_sides(sampler: Callable[..., Any], scale: float) -> None:
    """Bit for bit, every step."""
    x = np.random.default_rng(0).standard_normal((8, 2))
    alone = side(MEAN_C, VARIANCE_C) if scale == 1 else side(MEAN_U, VARIANCE_U)
    pairs = uneven_pairs(8)
    for ours, theirs in zip(
        sampler(PROCESS, guided(scale), x, pairs, refused), sampler(PROCESS, alone, x, pairs, refused), strict=True
    ):
        assert np.array_equal(ours.x, theirs.x)
        assert np.array_equal(ours.x_0, theirs.x_0)
