"""The kits for features and metrics name what breaks their contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinyddpm import registry
from tinyddpm.backend import Backend
from tinyddpm.metrics.base import Numbers, Seen, Sets, needing
from tinyddpm.testing import check_feature, check_metric

POINTS = np.random.default_rng(1).standard_normal((5, 2), np.float32)


@pytest.mark.parametrize("entry", registry.entries("metrics"), ids=lambda entry: entry.name)
def test_the_built_in_metrics_keep_the_contract(entry: registry.Entry) -> None:
    check_metric(entry.name)


@pytest.mark.parametrize(("name", "samples"), [("pixels", None), ("coordinates", POINTS)])
def test_samples_as_they_are_keep_the_contract(name: str, samples: np.ndarray | None) -> None:
    check_feature(name, samples)


class Means:
    description, resize = "the mean of each channel", "none"

    def __init__(self, backend: Backend, *, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, samples: np.ndarray) -> Any:
        return Seen(self.scale * samples.mean((1, 2), dtype=np.float32))


class Nameless(Means):
    resize = ""


class Tuple(Means):
    def __call__(self, samples: np.ndarray) -> Any:
        return tuple(super().__call__(samples))


class Double(Means):
    def __call__(self, samples: np.ndarray) -> Any:
        return Seen(samples.mean((1, 2)))


class Logits(Means):
    def __call__(self, samples: np.ndarray) -> Any:
        return Seen(super().__call__(samples).features, np.zeros((1, 4), np.float32))


class Infinite(Means):
    def __call__(self, samples: np.ndarray) -> Any:
        return Seen(super().__call__(samples).features / np.float32(0))


class Centred(Means):
    def __call__(self, samples: np.ndarray) -> Any:
        features = super().__call__(samples).features
        return Seen(features - features.mean(0))


class Counting(Means):
    calls = 0

    def __call__(self, samples: np.ndarray) -> Any:
        self.calls += 1
        return Seen(super().__call__(samples).features + self.calls)


class Writing(Means):
    def __call__(self, samples: np.ndarray) -> Any:
        samples[0] = 0
        return super().__call__(samples)


class Blind(Means):
    def __call__(self, samples: np.ndarray) -> Any:
        return Seen(np.ones((len(samples), 2), np.float32))


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (Nameless, "its resize is '': give one line"),
        (Tuple, "are a tuple, not Seen"),
        (Double, r"features are float64 of shape \(3, 1\): give float32"),
        (Logits, r"logits are float32 of shape \(1, 4\): give float32 \(3, D\)"),
        (Infinite, "features are not all finite"),
        (Centred, "of a sample alone are off"),
        (Counting, "features differ at the second call"),
        (Writing, "fail with read-only samples"),
        (Blind, "different samples have the same features"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_broken_features_are_named(broken: Any, line: str) -> None:
    check_feature(Means, scale=0.5)
    with pytest.raises(AssertionError, match=line):
        check_feature(broken)


def mean_shift(sets: Sets, *, power: float = 2.0) -> Numbers:
    return {"shift": float((np.abs(sets.drawn.features.mean(0) - sets.real.features.mean(0)) ** power).sum())}


@needing("training")
def training_shift(sets: Sets) -> Numbers:
    assert sets.training is not None
    return {"shift": float(sets.training.features.mean() - sets.drawn.features.mean())}


@needing("tests")
def mistyped(sets: Sets) -> Numbers:
    return {"a": 1.0}


def writes(sets: Sets) -> Numbers:
    sets.drawn.features[0] = 0
    return {"a": 1.0}


def sorts(sets: Sets) -> Numbers:
    assert sets.drawn.labels is not None
    sets.drawn.labels.sort()
    return {"a": 1.0}


def counts(sets: Sets) -> Numbers:
    return {"a": float(np.bincount(sets.drawn.labels).max())}  # type: ignore[arg-type]


def undeclared(sets: Sets) -> Numbers:
    return {"a": float(sets.training.features.mean())}  # type: ignore[union-attr]


def labelled(sets: Sets) -> Numbers:
    return {"a": 1.0} if sets.drawn.labels is not None else {"a": 1.0, "b": 2.0}


def random(sets: Sets) -> Numbers:
    return {"a": float(np.random.default_rng().uniform())}


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (lambda sets: {}, "returns no number"),
        (lambda sets: {"a": np.nan}, "a is nan: give a finite float"),
        (lambda sets: {"a": 1}, "a is 1: give a finite float"),
        (lambda sets: {"": 1.0}, "the name '' is no text"),
        (mistyped, "needs tests, which sets do not have"),
        (writes, "fails on read-only features"),
        (sorts, "fails on read-only features"),
        (counts, "fails without labels, captions and logits.*: ValueError"),
        (
            undeclared,
            "without training samples, for its attribute needs does not name them: AttributeError",
        ),
        (labelled, "returns b only without labels"),
        (random, "other numbers at the second call"),
    ],
)
def test_a_broken_metric_is_named(broken: Callable[..., Any], line: str) -> None:
    check_metric(mean_shift, power=1.0)
    check_metric(training_shift)
    with pytest.raises(AssertionError, match=line):
        check_metric(broken)
