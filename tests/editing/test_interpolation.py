"""Between two images: the ends come back, the mixtures have the law they should."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.affine import GAUSSIAN, LINEAR, denoised, law
from helpers.flow import NEAR, PROCESS, refused, uneven_pairs
from helpers.gaussians import Floats, Mixture
from tinyddpm.editing import conditional_interpolation, ddim_interpolation, slerp, stochastic_interpolation
from tinyddpm.errors import ConfigError
from tinyddpm.guidance import Blend
from tinyddpm.samplers import Sampler, ancestral, ddim, ddim_encode, trailing_pairs

A, B = np.array([1.1, 0.4]), np.array([-0.7, -0.2])
RNG = np.random.default_rng(6)


def shifted(mean: Floats) -> Mixture:
    return Mixture(np.ones(1), mean[None], np.array([[[0.3, 0.1], [0.1, 0.2]]]))


@pytest.mark.slow
def test_the_ends_of_ddim_are_the_way_up_and_down() -> None:
    """At λ = 0 and 1, to rounding, what DDIM makes of each end's own code, each by its own denoiser.

    So they are off by the error of the way up and down, of the first order: it halves, to a fifth, as the steps double.
    """
    denoisers = NEAR.denoiser(PROCESS), shifted(A).denoiser(PROCESS)
    errors = []
    for steps in (128, 256, 512):
        pairs = uneven_pairs(steps)
        lam = np.array([0.0, 1.0])
        *_, last = ddim_interpolation(PROCESS, denoisers, Blend(*denoisers, lam), (A[None], B[None]), lam, pairs)
        for i, (denoiser, end) in enumerate(zip(denoisers, (A, B), strict=True)):
            *_, up = ddim_encode(PROCESS, denoiser, end[None], pairs)
            *_, down = ddim(PROCESS, denoiser, up.x, pairs, refused)
            np.testing.assert_allclose(last.x[i], down.x[0], rtol=1e-9)
        errors.append(np.linalg.norm(last.x - [A, B], axis=1))
    for before, after in pairwise(errors):
        np.testing.assert_allclose(before / after, 2, rtol=0.2)
    assert errors[-1].max() < 0.02


def test_ddim_yields_the_ways_up_and_the_way_down() -> None:
    pairs = uneven_pairs(4)
    denoiser = NEAR.denoiser(PROCESS)
    ends, lam = (A[None], B[None]), np.linspace(0, 1, 5)
    steps = list(ddim_interpolation(PROCESS, (denoiser, denoiser), denoiser, ends, lam, pairs))
    up, down = [t for _, t in reversed(pairs)], [t for t, _ in pairs]
    assert [step.t for step in steps] == [*up, *up, *down]
    assert steps[-1].x.shape == (5, 2)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_slerp_goes_along_the_arc(seed: int, lam: float) -> None:
    """Over random pairs of one length and all λ: the length is kept, and the angle to the first is λ of the whole."""
    a, b = np.random.default_rng(seed).standard_normal((2, 1, 3, 4))
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    x = slerp(np, a, b, np.array([lam]))

    def angle(u: Floats, v: Floats) -> float:
        """By the chord, which is exact for small angles too."""
        return 2 * np.arcsin(min(np.linalg.norm(u - v) / np.linalg.norm(a) / 2, 1))

    assert np.linalg.norm(x) == pytest.approx(np.linalg.norm(a), rel=1e-9)
    assert angle(x, a) == pytest.approx(lam * angle(a, b), abs=1e-6)


def test_slerp_of_what_points_the_same_way_is_straight() -> None:
    a = RNG.standard_normal((1, 8))
    lam = np.linspace(0, 1, 5)
    np.testing.assert_allclose(slerp(np, a, a, lam), np.repeat(a, 5, axis=0), rtol=1e-12)
    np.testing.assert_allclose(slerp(np, a, 3 * a, lam), (1 + 2 * lam[:, None]) * a, rtol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_the_law_of_the_stochastic_mixtures_is_known(strength: float, lam: float) -> None:
    """x̄_t has mean √alpha_bar ((1 − λ) a + λ b) and variance (1 − alpha_bar) ((1 − λ)² + λ²).

    Denoised, the mean is that of Gaussian regression to rounding; the covariance to the sampler's first-order error,
    which halves, to a fifth, as the steps double.
    """
    start = round(strength * 1000) - 1
    alpha_bar = LINEAR.alpha_bar[start]
    variance = (1 - alpha_bar) * ((1 - lam) ** 2 + lam**2)
    mean, covariance = denoised(start, alpha_bar**0.5 * ((1 - lam) * A + lam * B), variance * np.eye(2))
    errors = []
    for steps in (100, 200, 400):
        pairs = trailing_pairs(1000, steps)
        run = partial(
            stochastic_interpolation,
            ends=(A[None], B[None]),
            lam=np.array([lam]),
            strength=strength,
            sampler=partial(ancestral, variance="small"),
        )
        denoiser = GAUSSIAN.denoiser(LINEAR)
        found = law(lambda draw: list(run(LINEAR, denoiser, (draw(0), draw(1)), pairs, draw))[-1].x, 2 + steps)  # noqa: B023
        np.testing.assert_allclose(found[0], mean, rtol=1e-9)
        errors.append(np.abs(found[1] - covariance).max())
    assert errors[-1] < 0.02
    assert all(before / after == pytest.approx(2, rel=0.2) for before, after in pairwise(errors))


@pytest.mark.parametrize("sampler", [ddim, partial(ancestral, variance="small")])
def test_between_two_gaussians_all_come_of_one_noise(sampler: Sampler) -> None:
    """Two that differ in mean alone have between them the one of the mean between: to rounding, what it draws alone of
    this noise, at both ends and on the way."""
    pairs, lam = trailing_pairs(1000, 20), np.array([0.0, 0.3, 0.5, 1.0])
    x, steps = RNG.standard_normal((1, 2)), RNG.standard_normal((1000, 1, 2))
    between = Blend(shifted(A).denoiser(LINEAR), shifted(B).denoiser(LINEAR), lam)
    *_, last = conditional_interpolation(LINEAR, between, x, pairs, steps.__getitem__, n=4, sampler=sampler)
    assert last.x.shape == (4, 2)
    for drawn, share in zip(last.x, lam, strict=True):
        alone = shifted((1 - share) * A + share * B).denoiser(LINEAR)
        *_, expected = sampler(LINEAR, alone, x, pairs, steps.__getitem__)
        np.testing.assert_allclose(drawn, expected.x[0], rtol=1e-9)


def test_stochastic_strength_is_refused_where_there_is_none() -> None:
    arguments = (LINEAR, GAUSSIAN.denoiser(LINEAR), (A[None], B[None]), trailing_pairs(1000, 5), refused)
    with pytest.raises(ConfigError, match=r"strength is 2\.0"):
        stochastic_interpolation(*arguments, ends=(A, B), lam=np.ones(1), strength=2.0, sampler=ancestral)
