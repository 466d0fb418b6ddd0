"""The Inception score against closed forms."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tinyddpm.errors import ConfigError
from tinyddpm.metrics.base import Part, Sets
from tinyddpm.metrics.inception_score import inception_score, scores


def sets(logits: np.ndarray | None, n: int = 200) -> Sets:
    return Sets(Part(np.zeros((n, 2)), logits), Part(np.zeros((5, 2))))


def test_of_sure_and_even_answers_it_is_the_number_of_classes() -> None:
    logits = 1000 * np.eye(5, dtype=np.float32)[np.arange(200) % 5]
    assert inception_score(sets(logits), splits=1) == pytest.approx({"inception score": 5, "inception score sd": 0})


def test_of_answers_that_are_alike_it_is_one(rng: np.random.Generator) -> None:
    logits = np.tile(rng.normal(size=7), (200, 1))
    assert inception_score(sets(logits)) == pytest.approx({"inception score": 1, "inception score sd": 0})


def test_of_two_classes_it_is_the_divergence_of_a_coin() -> None:
    """p = 0.9 for one class in half of the samples and for the other in the rest: exp(log 2 − H(0.9))."""
    logits = np.log(np.where(np.arange(10)[:, None] % 2 == np.arange(2), 0.9, 0.1))
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    np.testing.assert_allclose(scores(logits, 5), np.exp(np.log(2) - entropy), rtol=1e-12)


def test_each_of_ten_parts_is_scored_alone(rng: np.random.Generator) -> None:
    """The parts' sizes differ by one at most: 203 samples are seven parts of 20 and three of 21, in some order."""
    logits = rng.normal(size=(203, 5))
    shuffled = logits[np.random.default_rng(0).permutation(203)]
    ends = [203 * i // 10 for i in range(11)]
    assert sorted(np.diff(ends)) == [20] * 7 + [21] * 3
    found = np.concatenate([scores(shuffled[a:b], 1) for a, b in pairwise(ends)])
    expected = {"inception score": found.mean(), "inception score sd": found.std()}
    assert inception_score(sets(logits, 203)) == pytest.approx(expected, rel=1e-12)


def test_samples_in_turn_make_no_difference() -> None:
    """Ten classes in turn in ten splits would fall into one each if they were cut with a stride, or in blocks."""
    labels = np.repeat(np.arange(10), 100)
    found = inception_score(sets(1000.0 * np.eye(10)[labels], 1000))["inception score"]
    assert found > 9


def test_without_logits_there_is_none() -> None:
    assert inception_score(sets(None)) == {}
    for splits in (0, 201):
        with pytest.raises(ConfigError, match=f"{splits} splits of 200 samples: give 1 to 200"):
            inception_score(sets(np.zeros((200, 3))), splits=splits)
