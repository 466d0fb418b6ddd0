"""The kits for parametrisations, objectives and laws of t pass what keeps the contract, and name what does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinyddpm import registry
from tinyddpm.diffusion.objectives import Hybrid, Simple
from tinyddpm.diffusion.parametrisation import Coefficients
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.times import LossHistory, Uniform
from tinyddpm.testing import check_objective, check_parametrisation, check_time


def names(group: str) -> list[str]:
    return [entry.name for entry in registry.entries(group)]


@pytest.mark.parametrize("name", names("parametrisations"))
def test_the_parametrisations_keep_the_contract(name: str) -> None:
    check_parametrisation(name)


@pytest.mark.parametrize("name", names("objectives"))
def test_the_objectives_keep_the_contract(name: str) -> None:
    check_objective(name, detached=name == "hybrid")


@pytest.mark.parametrize("name", names("times"))
def test_the_laws_keep_the_contract(name: str) -> None:
    check_time(name)


def coefficients(alpha_bar: np.ndarray, **changes: Any) -> Coefficients:
    one = np.ones_like(alpha_bar)
    return Coefficients(one, -one, one)._replace(**changes)


def single(alpha_bar: np.ndarray) -> Coefficients:
    return coefficients(alpha_bar, of_eps=np.ones(len(alpha_bar), np.float32))


def silent(alpha_bar: np.ndarray) -> Coefficients:
    return coefficients(alpha_bar, of_x_0=alpha_bar**0.5, of_eps=(1 - alpha_bar) ** 0.5)


def mirrored(alpha_bar: np.ndarray) -> Coefficients:
    return coefficients(alpha_bar, scale=-np.ones_like(alpha_bar))


def random(alpha_bar: np.ndarray) -> Coefficients:
    return coefficients(alpha_bar, of_x_0=np.random.default_rng().uniform(1, 2, alpha_bar.shape))


def bare(alpha_bar: np.ndarray) -> Any:
    return tuple(coefficients(alpha_bar))


def writes(alpha_bar: np.ndarray) -> Coefficients:
    alpha_bar[0] = 0.5
    return coefficients(alpha_bar)


def positional(alpha_bar: np.ndarray, sigma: float = 1.0) -> Coefficients:
    return coefficients(alpha_bar)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (single, "of_eps must be a NumPy float64 array"),
        (silent, "says nothing of x_0 at t = "),
        (mirrored, "a scale is not above 0"),
        (random, "two calls give different coefficients"),
        (bare, "returned tuple, it must be Coefficients"),
        (writes, "alpha_bar was written to"),
        (positional, "option sigma is not keyword-only"),
    ],
)
def test_a_broken_parametrisation_is_named(broken: Any, line: str) -> None:
    with pytest.raises(AssertionError, match=line):
        check_parametrisation(broken)


class Unsaid(Simple):
    times = "whenever"


class OneLoss(Simple):
    def forward(self, ops: Any, out: Any, batch: Any) -> Any:
        losses, saved = super().forward(ops, out, batch)
        return np.mean(losses), saved


class MeanInEach(Simple):
    """What Hybrid did: losses that hold the mean over the batch."""

    def forward(self, ops: Any, out: Any, batch: Any) -> Any:
        losses, saved = super().forward(ops, out, batch)
        return losses + np.mean(losses), saved


class AlongChannels(Simple):
    """What Hybrid did: an (N,) share that meets the last axis."""

    def backward(self, ops: Any, saved: Any, share: Any) -> Any:
        return super().backward(ops, saved, 1.0) * share


class HalfGradient(Simple):
    def backward(self, ops: Any, saved: Any, share: Any) -> Any:
        return super().backward(ops, saved, share) / 2


class Writing(Simple):
    def forward(self, ops: Any, out: Any, batch: Any) -> Any:
        out -= 1
        return super().forward(ops, out, batch)


class WritingItsShare(Simple):
    def backward(self, ops: Any, saved: Any, share: Any) -> Any:
        share *= 1.0
        return super().backward(ops, saved, share)


class Unheeding(Simple):
    def __init__(self, parametrisation: Any, weights: Any, decoder: Any) -> None:
        super().__init__(parametrisation, None, decoder)


class OffByOne(Simple):
    def __init__(self, parametrisation: Any, weights: Any, decoder: Any) -> None:
        super().__init__(parametrisation, np.roll(weights, 1), decoder)


class Remembering(Simple):
    def forward(self, ops: Any, out: Any, batch: Any) -> Any:
        losses, self.saved = super().forward(ops, out, batch)
        return losses, None

    def backward(self, ops: Any, saved: Any, share: Any) -> Any:
        return super().backward(ops, self.saved, share)


class Widening(Simple):
    def __init__(self, parametrisation: Any, weights: Any, decoder: Any) -> None:
        super().__init__(parametrisation, weights, decoder)
        self.weights = parametrisation.process.backend.asarray(weights)


class NumpyAlone(Simple):
    def forward(self, ops: Any, out: Any, batch: Any) -> Any:
        losses, saved = super().forward(ops, out, batch)
        return losses.clip(0), saved


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (Unsaid, "times must name a law of t"),
        (OneLoss, r"losses have shape \(\), there are 4 samples"),
        (MeanInEach, "the loss of a sample depends on the others"),
        (AlongChannels, "on eps, with a weight for each sample: gradient of the output"),
        (HalfGradient, "on eps, with a share: gradient of the output"),
        (Hybrid, "gradient of the output"),
        (Writing, "on eps: forward with read-only inputs fails on numpy: ValueError"),
        (WritingItsShare, "on eps: backward with read-only inputs fails on numpy: ValueError"),
        (Unheeding, "the weight of t = 0 does not change the loss of a sample at t"),
        (OffByOne, "the weight of t = 0 does not change the loss of a sample at t"),
        (Remembering, "the gradient differs after another forward"),
        (Widening, "losses are float64 for a float32 output"),
        (NumpyAlone, "forward with read-only inputs fails on array_api_strict: AttributeError"),
    ],
)
def test_a_broken_objective_is_named(broken: Any, line: str) -> None:
    """Hybrid is one, unless it is said that its mean is detached."""
    with pytest.raises(AssertionError, match=line):
        check_objective(broken)


class Early(Uniform):
    """It never draws the last time."""

    def draw(self, random: Any, step: Any, samples: Any) -> Any:
        t, weight = super().draw(random, step, samples)
        return np.minimum(t, self.T - 2), weight


class Late(Uniform):
    def draw(self, random: Any, step: Any, samples: Any) -> Any:
        t, weight = super().draw(random, step, samples)
        return t + 1, weight


class Heavy(Uniform):
    def draw(self, random: Any, step: Any, samples: Any) -> Any:
        return super().draw(random, step, samples)[0], 2.0


class Neighbourly(Uniform):
    def draw(self, random: Any, step: Any, samples: Any) -> Any:
        return (super().draw(random, step, samples)[0] + samples[-1]) % self.T, 1.0


class Amnesiac(LossHistory):
    def unpack(self, packed: Any) -> None:
        pass


class Unfilled(LossHistory):
    """It forgets how many losses it was told."""

    def unpack(self, packed: Any) -> None:
        super().unpack(packed)
        self.counts[:] = self.losses.shape[1]


class Ring(LossHistory):
    """It overwrites the oldest loss, and forgets which that is."""

    def __init__(self, process: GaussianProcess) -> None:
        super().__init__(process)
        self.told = np.zeros_like(self.counts)

    def hear(self, t: Any, losses: Any) -> None:
        for time, loss in zip(t, losses, strict=True):
            self.losses[time, self.told[time] % self.losses.shape[1]] = loss
            self.told[time] += 1
            self.counts[time] = min(self.told[time], self.losses.shape[1])


class Standing(Uniform):
    def draw(self, random: Any, step: Any, samples: Any) -> Any:
        return super().draw(random, 0, samples)


class Unweighted(LossHistory):
    def at(self, words: Any) -> Any:
        t, weight = super().at(words)
        return t, weight**2


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (Early, "at first: t = 19 is never drawn"),
        (Late, "a time is 20, it must be from 0 to T - 1"),
        (Heavy, "the weights have mean 2, not 1"),
        (Neighbourly, "depends on what else is in the batch"),
        (Amnesiac, "after packed, unpack and further losses, it draws other times or weights"),
        (Unfilled, "after packed and unpack, it draws other times or weights"),
        (Ring, "after packed, unpack and further losses, it draws other times or weights"),
        (Standing, "at first: two steps draw the same times"),
        (Unweighted, "after losses: the weights have mean"),
    ],
)
def test_a_broken_law_is_named(broken: Any, line: str) -> None:
    with pytest.raises(AssertionError, match=line):
        check_time(broken)
