"""RePaint comes to the conditional law of what is hidden, and keeps what is known."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.affine import COVARIANCE, GAUSSIAN, LINEAR, MEAN, law
from helpers.gaussians import Floats
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.editing import repaint, repaint_path
from tinyddpm.errors import ConfigError
from tinyddpm.samplers import Noise, Pairs, Step, ancestral, trailing_pairs

KNOWN = 1.1
IMAGE = np.array([[KNOWN, np.nan]])
"""What is hidden is not a number: nothing may look at it."""
MASK = np.array([[False, True]])

TRUE_MEAN = MEAN[1] + COVARIANCE[1, 0] / COVARIANCE[0, 0] * (KNOWN - MEAN[0])
TRUE_VARIANCE = COVARIANCE[1, 1] - COVARIANCE[1, 0] ** 2 / COVARIANCE[0, 0]
"""Of the hidden coordinate given the known one."""

LARGE = partial(ancestral, variance="large")


@lru_cache
def errors(steps: int, resamplings: int, jump: int = 1) -> tuple[float, float]:
    """How far the hidden coordinate's mean is off, in standard deviations, and its variance, relatively: exact."""
    pairs = trailing_pairs(1000, steps)
    ways = {"image": IMAGE, "mask": MASK, "sampler": LARGE, "jump": jump, "resamplings": resamplings}

    def painted(draw: object) -> Floats:
        *_, last = repaint(LINEAR, GAUSSIAN.denoiser(LINEAR), draw(0), pairs, draw, **ways)
        return last.x

    mean, covariance = law(painted, 1 + 3 * len(repaint_path(pairs, jump, resamplings)))
    assert mean[0] == KNOWN
    assert covariance[0, 0] == covariance[0, 1] == 0
    return abs(mean[1] - TRUE_MEAN) / TRUE_VARIANCE**0.5, abs(covariance[1, 1] / TRUE_VARIANCE - 1)


@pytest.mark.slow
@pytest.mark.parametrize("jump", [1, 4])
def test_resampling_brings_the_conditional_law(jump: int) -> None:
    """On 32 steps: without going back, the mean is off by near half a deviation, the variance by a quarter or more.

    With more and more resamplings both errors fall, to less than a quarter of that at 32 (a half with longer jumps,
    which are coarser steps of the Langevin dynamics that this is).
    """
    means, variances = zip(*(errors(32, resamplings, jump) for resamplings in (1, 2, 4, 8, 16, 32)), strict=True)
    assert means[0] > 0.45
    assert variances[0] > 0.25
    for found in (means, variances):
        assert all(after < before for before, after in pairwise(found))
    assert means[-1] < means[0] / (4 if jump == 1 else 2)
    assert variances[-1] < variances[0] / (4 if jump == 1 else 1.5)


@pytest.mark.slow
def test_what_resampling_leaves_falls_with_the_steps() -> None:
    """Resampled as often as there are steps, both errors fall with them, the mean's to half or less at each doubling.

    More steps alone do not help: without resampling the mean stays off by more than 0.45.
    """
    resampled = [errors(steps, steps) for steps in (8, 16, 32)]
    assert all(before[0] / after[0] > 2 and before[1] > after[1] for before, after in pairwise(resampled))
    assert resampled[-1][0] < 0.1
    assert resampled[-1][1] < 0.1
    assert all(errors(steps, 1)[0] > 0.45 for steps in (8, 16, 32))


def painted_draws(n: int, resamplings: int) -> Floats:
    rng = np.random.default_rng(13)
    *_, last = repaint(
        LINEAR,
        GAUSSIAN.denoiser(LINEAR),
        rng.standard_normal((n, 2)),
        trailing_pairs(1000, 32),
        lambda number: rng.standard_normal((n, 2)),
        image=IMAGE,
        mask=MASK,
        sampler=LARGE,
        jump=1,
        resamplings=resamplings,
    )
    return last.x


@pytest.mark.slow
def test_draws_have_the_conditional_law() -> None:
    """20,000 draws on 32 steps with 16 resamplings: mean within 0.11 deviations of the true one, variance within 7 %.

    To which come 5 standard errors (a false alarm below 1e-6 each, by the normal law). Without resampling, the mean
    misses the same bound.
    """
    n = 20_000
    x = painted_draws(n, 16)
    bound = 0.11 + 5 / np.sqrt(n)
    assert np.all(x[:, 0] == KNOWN)
    assert abs(x[:, 1].mean() - TRUE_MEAN) / TRUE_VARIANCE**0.5 < bound
    assert abs(x[:, 1].var() / TRUE_VARIANCE - 1) < 0.07 + 5 * np.sqrt(2 / n)
    assert abs(painted_draws(n, 1)[:, 1].mean() - TRUE_MEAN) / TRUE_VARIANCE**0.5 > bound


@pytest.mark.parametrize("variance", ["large", "small"])
def test_known_pixels_come_back_exactly(variance: str) -> None:
    """At random masks and images, to the bit; every step is at the time that it says, the last one at the data."""
    rng = np.random.default_rng(2)
    image, mask = rng.standard_normal((50, 2)), rng.random((50, 2)) < 0.5
    pairs = trailing_pairs(1000, 12)
    steps = list(
        repaint(
            LINEAR,
            GAUSSIAN.denoiser(LINEAR),
            rng.standard_normal((50, 2)),
            pairs,
            lambda number: rng.standard_normal((50, 2)),
            image=np.where(mask, np.nan, image),
            mask=mask,
            sampler=partial(ancestral, variance=variance),
            jump=3,
            resamplings=2,
        )
    )
    np.testing.assert_array_equal(steps[-1].x[~mask], image[~mask])
    assert np.isfinite(steps[-1].x).all()
    assert [step.t for step in steps] == [t for t, t_next in repaint_path(pairs, 3, 2) if t_next < t]


def test_noise_is_asked_for_by_running_number() -> None:
    """No number comes twice: a time that is visited again gets fresh noise."""
    asked = []

    def noise(number: int) -> Floats:
        asked.append(number)
        return np.zeros((1, 2))

    ways = {"image": IMAGE, "mask": MASK, "sampler": LARGE, "jump": 2, "resamplings": 3}
    list(repaint(LINEAR, GAUSSIAN.denoiser(LINEAR), np.zeros((1, 2)), trailing_pairs(1000, 9), noise, **ways))
    downs, jumps = 8 * 3, 4 * 2
    assert asked == list(range(2 * downs + jumps))


def one_up(process: GaussianProcess, denoiser: Denoiser, x: Floats, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    """A sampler that adds 1 in each step."""
    for t, _ in pairs:
        x = x + 1
        yield Step(t, x, x)


def test_each_move_is_the_papers() -> None:
    """Algorithm 1, by the chain's alpha_bar: the known part at every time, 0 included, and x_t on its way back up."""
    rng = np.random.default_rng(3)
    image, x, *noises = rng.standard_normal((20, 4, 2))
    mask = rng.random((4, 2)) < 0.5
    ways = {"image": image, "mask": mask, "sampler": one_up, "jump": 2, "resamplings": 2}
    pairs = [(400, 20), (20, 0), (0, -1)]
    found = [step.x for step in repaint(LINEAR, GAUSSIAN.denoiser(LINEAR), x, pairs, noises.__getitem__, **ways)]
    expected, left = [], iter(noises)
    for t, t_next in [*pairs[:2], (0, 400), *pairs]:
        if t_next > t:
            share = LINEAR.alpha_bar[t_next] / LINEAR.alpha_bar[t]
            x = np.sqrt(share) * x + np.sqrt(1 - share) * next(left)
            continue
        alpha_bar = LINEAR.alpha_bar[t_next]
        known = image if t_next < 0 else np.sqrt(alpha_bar) * image + np.sqrt(1 - alpha_bar) * next(left)
        x = np.where(mask, x + 1, known)
        expected.append(x)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_default_path_is_the_papers() -> None:
    """j = 10 and r = 10."""
    pairs, ways = trailing_pairs(1000, 25), {"image": IMAGE, "mask": MASK, "sampler": one_up}
    steps = repaint(LINEAR, GAUSSIAN.denoiser(LINEAR), np.zeros((1, 2)), pairs, lambda _: np.zeros((1, 2)), **ways)
    assert [step.t for step in steps] == [t for t, t_next in repaint_path(pairs, 10, 10) if t_next < t]


def papers_path(steps: int, jump: int, resamplings: int) -> list[int]:
    """The times of the authors' schedule, from T to 0, the data: counters at every j-th time, used up one by one."""
    left = dict.fromkeys(range(1, steps - jump + 1, jump), resamplings - 1)
    t, times = steps, [steps]
    while t > 0:
        t -= 1
        times.append(t)
        if left.get(t, 0) > 0:
            left[t] -= 1
            t += jump
            times.append(t)
    return times


@given(parts=st.integers(0, 12), jump=st.integers(1, 12), resamplings=st.integers(1, 5))
def test_the_path_is_the_papers(parts: int, jump: int, resamplings: int) -> None:
    """Over chains that consist of whole parts and a last step: the same times in the same order, its t being our t + 1.

    But that its code climbs one time after another, where here it is done at once.
    """
    steps = parts * jump + 1
    path = repaint_path(trailing_pairs(steps), jump, resamplings)
    assert [path[0][0] + 1, *(t_next + 1 for _, t_next in path)] == papers_path(steps, jump, resamplings)


@given(steps=st.integers(1, 60), jump=st.integers(1, 70), resamplings=st.integers(1, 4))
def test_the_path_takes_each_step_as_often_as_asked(steps: int, jump: int, resamplings: int) -> None:
    """Over chains, jumps and resamplings: joined up, each step as often as asked but the last, once, no jump longer."""
    pairs = trailing_pairs(200, steps)
    path = repaint_path(pairs, jump, resamplings)
    assert all(a[1] == b[0] for a, b in pairwise(path))
    downs = [move for move in path if move[1] < move[0]]
    assert sorted(downs) == sorted([*pairs[:-1] * resamplings, pairs[-1]])
    assert path[-1] == pairs[-1]
    times = [t for t, _ in pairs]
    assert all(1 <= times.index(t) - times.index(t_next) <= jump for t, t_next in path if t_next > t)


@pytest.mark.parametrize(("jump", "resamplings", "line"), [(0, 3, "jump is 0"), (3, 0, "resamplings is 0")])
def test_impossible_ways_are_refused(jump: int, resamplings: int, line: str) -> None:
    with pytest.raises(ConfigError, match=f"{line}: give at least 1"):
        repaint_path(trailing_pairs(10), jump, resamplings)
