"""The kit for samplers passes what keeps the contract, and names what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.samplers import Noise, Pairs, Step, ancestral
from tinyddpm.testing import check_sampler


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["large", "small"])
def test_ancestral_sampling_keeps_the_contract(variance: str) -> None:
    """Both variances tend to the exact one as T grows; at T = 1000 they are within the tolerance."""
    check_sampler("ancestral", variance=variance)


def test_too_few_steps_are_noticed() -> None:
    """Twenty steps of respaced ancestral sampling lose variance beyond tolerance and chance."""
    with pytest.raises(AssertionError, match=r"off by .* in variance along"):
        check_sampler("ancestral", steps=20)


def changed(change: Callable[[Step, bool], Step]) -> Callable[..., Iterator[Step]]:
    """Return ancestral sampling with every step changed on its way out; `change` is told whether it is the last."""

    def sampler(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
        for step, (_, t_prev) in zip(ancestral(process, denoiser, x, pairs, noise), pairs, strict=True):
            yield change(step, t_prev < 0)

    return sampler


def writes_input(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    x *= 1.0
    yield from ancestral(process, denoiser, x, pairs, noise)


def reuses_memory(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    buffer = process.backend.xp.zeros_like(x)
    for step in ancestral(process, denoiser, x, pairs, noise):
        buffer[...] = step.x
        yield Step(step.t, buffer, step.x_0)


def skips_first(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    yield from ancestral(process, denoiser, x, pairs[1:] or pairs, noise)


def off_by_one(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    yield from ancestral(process, lambda x_t, t: denoiser(x_t, t + 1), x, pairs, noise)


def to_the_neighbour(
    process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise
) -> Iterator[Step]:
    """Leads to t - 1, which is t_prev where all T steps are taken."""
    for t, t_prev in pairs:
        for step in ancestral(process, denoiser, x, [(t, -1 if t_prev < 0 else t - 1)], noise):
            x = step.x
            yield step


KEPT: dict[str, Array] = {}


def keeps_state(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    KEPT["x"] = x
    for pair in pairs:
        for step in ancestral(process, denoiser, KEPT["x"], [pair], noise):
            KEPT["x"] = step.x
            yield step


def noise_at_the_end(
    process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise
) -> Iterator[Step]:
    for step, (t, t_prev) in zip(ancestral(process, denoiser, x, pairs, noise), pairs, strict=True):
        yield step if t_prev >= 0 else Step(step.t, step.x + 0.01 * noise(t), step.x_0)


def unseeded(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    rng = np.random.default_rng()
    yield from ancestral(
        process, denoiser, x, pairs, lambda t: process.backend.asarray(rng.standard_normal(x.shape, dtype=np.float32))
    )


def no_noise(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    yield from ancestral(process, denoiser, x, pairs, lambda t: 0 * x)


def same_noise(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    yield from ancestral(process, denoiser, x, pairs, lambda t: noise(0))


def numpy_alone(process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise) -> Iterator[Step]:
    yield from ancestral(process, denoiser, x.copy(), pairs, noise)


def positional(
    process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise, eta: float = 1.0
) -> Iterator[Step]:
    yield from ancestral(process, denoiser, x, pairs, noise)


def widened(step: Step, last: bool) -> Step:
    return Step(step.t, step.x * np.float64(1.0) if isinstance(step.x, np.ndarray) else step.x, step.x_0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (writes_input, "fails with read-only inputs: ValueError"),
        (reuses_memory, "is written to after it was yielded"),
        (skips_first, r"its steps leave t = \[499\], not \[999, 499\]"),
        (off_by_one, "asked at t = 1000, outside 0 to 999"),
        (to_the_neighbour, r"x of the step from t = \d+ to \d+ is off by"),
        (keeps_state, "samples differ when two runs take turns"),
        (changed(lambda step, last: Step(step.t, step.x, step.x)), "x_0 of the step from t = 999 to 989 is off by"),
        (noise_at_the_end, "adds noise at the last step"),
        (unseeded, "the same inputs give different samples"),
        (changed(lambda step, last: Step(step.t, step.x + step.x[:1], step.x_0)), "a sample drawn alone is off"),
        (no_noise, "off by .* in variance"),
        (same_noise, "off by .* in"),
        (numpy_alone, "fails on array-api-strict: AttributeError"),
        (positional, "option eta is not keyword-only"),
        (changed(lambda step, last: tuple(step)), "yields a tuple, not a Step"),  # type: ignore[arg-type,return-value]
        (changed(widened), "is float64 for float32 samples"),
        (changed(lambda step, last: Step(step.t, step.x[:1], step.x_0)), r"has shape \(1, 2\), not \(5, 2\)"),
        (changed(lambda step, last: Step(step.t, step.x / 0.0 if last else step.x, step.x_0)), "is not finite"),
        (changed(lambda step, last: Step(step.t, step.x + 0.04 * last, step.x_0)), "off by .* in mean"),
        (changed(lambda step, last: Step(step.t, step.x * (1 - 0.08 * last), step.x_0)), "off by .* in"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_broken_sampler_is_named(broken: Callable[..., Any], line: str) -> None:
    with pytest.raises(AssertionError, match=line):
        check_sampler(broken)
