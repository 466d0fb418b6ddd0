"""Image to image: the law after noising and denoising, and its two ends."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.affine import GAUSSIAN, LINEAR, denoised, law
from helpers.flow import refused
from helpers.gaussians import Floats
from tinyddpm.editing import pairs_from, sdedit
from tinyddpm.errors import ConfigError
from tinyddpm.samplers import ancestral, ddim, trailing_pairs

IMAGE = np.array([1.5, 0.5])
SMALL = partial(ancestral, variance="small")


def edited_law(strength: float, steps: int) -> tuple[Floats, Floats]:
    pairs = trailing_pairs(LINEAR.T, steps)
    return law(
        lambda draw: (
            list(
                sdedit(
                    LINEAR,
                    GAUSSIAN.denoiser(LINEAR),
                    draw(0),
                    pairs,
                    draw,
                    image=IMAGE[None],
                    strength=strength,
                    sampler=SMALL,
                )
            )[-1].x
        ),
        1 + len(pairs),
    )


@pytest.mark.parametrize("strength", [0.15, 0.4, 0.7, 1.0])
def test_the_law_of_the_edits_is_known(strength: float) -> None:
    """From one image the edits have the mean of Gaussian regression, to rounding, in any number of steps.

    Their covariance differs by the sampler's first-order error: it halves, to a fifth, as the steps double.
    """
    start = round(strength * 1000) - 1
    alpha_bar = LINEAR.alpha_bar[start]
    mean, covariance = denoised(start, alpha_bar**0.5 * IMAGE, (1 - alpha_bar) * np.eye(2))
    errors = []
    for steps in (100, 200, 400):
        found_mean, found_covariance = edited_law(strength, steps)
        np.testing.assert_allclose(found_mean, mean, rtol=1e-9)
        errors.append(np.abs(found_covariance - covariance).max())
    assert errors[-1] < 0.02
    assert all(before / after == pytest.approx(2, rel=0.2) for before, after in pairwise(errors))


def test_at_full_strength_the_model_draws() -> None:
    """The edits have the covariance and the mean of samples, but for what is left of the image at T − 1.

    That is alpha_bar, 4e-5, of the variance, which the noise has less, and sqrt(alpha_bar), 0.006, of the mean.
    """
    pairs, denoiser = trailing_pairs(LINEAR.T, 100), GAUSSIAN.denoiser(LINEAR)
    mean, covariance = edited_law(1.0, 100)
    drawn_mean, drawn = law(lambda draw: list(SMALL(LINEAR, denoiser, draw(0), pairs, draw))[-1].x, 1 + len(pairs))
    np.testing.assert_allclose(covariance, drawn, rtol=LINEAR.alpha_bar[-1])
    np.testing.assert_allclose(mean, drawn_mean, atol=LINEAR.alpha_bar[-1] ** 0.5 * np.abs(IMAGE).max())


@pytest.mark.parametrize("strength", [1e-9, 0.001])
def test_without_strength_the_image_comes_back(strength: float) -> None:
    """The least noise that there is, of deviation 0.01, moves the image by no more than that noise itself."""
    z = np.random.default_rng(4).standard_normal((200, 2))
    denoiser = GAUSSIAN.denoiser(LINEAR)
    (step,) = sdedit(
        LINEAR, denoiser, z, trailing_pairs(1000), refused, image=IMAGE[None], strength=strength, sampler=SMALL
    )
    noise = (1 - LINEAR.alpha_bar[0]) ** 0.5 * np.linalg.norm(z, axis=1)
    assert np.all(np.linalg.norm(step.x - IMAGE, axis=1) < noise + 0.001)


def test_little_strength_keeps_more_of_the_image() -> None:
    """With the flow for a sampler and no noise to start from, the distance to the image grows with the strength."""
    distances = []
    for strength in (0.05, 0.1, 0.2, 0.4, 0.8):
        steps = sdedit(
            LINEAR,
            GAUSSIAN.denoiser(LINEAR),
            np.zeros((1, 2)),
            trailing_pairs(1000, 200),
            refused,
            image=IMAGE[None],
            strength=strength,
            sampler=ddim,
        )
        *_, last = steps
        distances.append(np.linalg.norm(last.x - IMAGE))
    assert distances == sorted(distances)


@given(T=st.integers(1, 500), data=st.data())
def test_steps_begin_at_the_strength(T: int, data: st.DataObject) -> None:
    """Over chains, steps and strengths: begun nearest to strength T − 1, by the same times below, to the data."""
    pairs = trailing_pairs(T, data.draw(st.integers(1, T)))
    strength = data.draw(st.floats(0, 1, exclude_min=True))
    steps = pairs_from(pairs, strength, T)
    assert abs(steps[0][0] - max(strength * T - 1, 0)) <= 0.5
    assert steps[-1][1] == -1
    assert all(a[1] == b[0] for a, b in pairwise(steps))
    assert [t for t, _ in steps[1:]] == [t for t, _ in pairs if t < steps[0][0]]


@pytest.mark.parametrize("strength", [0.0, -0.2, 1.01, float("nan")])
def test_impossible_strengths_are_refused(strength: float) -> None:
    with pytest.raises(ConfigError, match=f"strength is {strength}: give a share of the chain"):
        pairs_from(trailing_pairs(10), strength, 10)
