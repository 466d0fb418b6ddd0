"""Classes that count alike: by the order of the samples, counted, and by what each counts in the loss."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.data.base import ArrayDataset
from tinyddpm.data.batching import Balanced, batch_indices, class_weights, make_order
from tinyddpm.errors import ConfigError

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=40).map(np.asarray)
"""Of one to five classes, of any sizes, some of which may be empty."""
SEEDS = st.integers(0, 2**64 - 1)


def dataset(labels: np.ndarray | None, classes: int = 5) -> ArrayDataset:
    n = 6 if labels is None else len(labels)
    names = () if labels is None else tuple("abcde"[:classes])
    return ArrayDataset(np.zeros((n, 2, 2), np.uint8), labels, names, name="made up")


@pytest.mark.slow
@given(labels=LABELS, batch_size=st.integers(1, 20), rounds=st.integers(1, 12), seed=SEEDS)
def test_each_class_comes_once_in_every_round(labels: np.ndarray, batch_size: int, rounds: int, seed: int) -> None:
    """So after any number of whole rounds all have come as often as any other; and in a batch to within two."""
    order, classes = Balanced(labels, batch_size, seed), len(np.unique(labels))
    steps = -(-rounds * classes // batch_size)
    batches = [labels[order(step)] for step in range(steps)]
    for turn in np.concatenate(batches)[: rounds * classes].reshape(rounds, classes):
        assert sorted(turn) == sorted(np.unique(labels))
    for batch in batches:
        counts = [int((batch == label).sum()) for label in np.unique(labels)]
        assert max(counts) - min(counts) <= 2
        assert batch_size % classes or max(counts) == min(counts)


@pytest.mark.slow
@given(labels=LABELS, batch_size=st.integers(1, 20), seed=SEEDS)
def test_every_sample_of_a_class_comes_before_any_comes_twice(labels: np.ndarray, batch_size: int, seed: int) -> None:
    order = Balanced(labels, batch_size, seed)
    seen = np.concatenate([order(step) for step in range(-(-200 // batch_size))])
    assert seen.dtype == np.int64
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        own = seen[labels[seen] == label]
        for start in range(0, len(own), len(members)):
            epoch = own[start : start + len(members)]
            assert max(Counter(epoch.tolist()).values()) == 1
            assert len(epoch) < len(members) or sorted(epoch) == members.tolist()


@pytest.mark.slow
@given(labels=LABELS, a=st.integers(1, 12), b=st.integers(1, 12), seed=SEEDS)
def test_the_balanced_order_has_no_state(labels: np.ndarray, a: int, b: int, seed: int) -> None:
    """Steps asked for backwards, by another object, in batches of another size: the same samples in the same order."""
    by_a, by_b = Balanced(labels, a, seed), Balanced(labels, b, seed)
    forwards = [by_a(step) for step in range(b)]
    for step in reversed(range(b)):
        np.testing.assert_array_equal(Balanced(labels, a, seed)(step), forwards[step])
    np.testing.assert_array_equal(np.concatenate(forwards), np.concatenate([by_b(step) for step in range(a)]))


def test_rounds_epochs_and_seeds_have_orders_of_their_own() -> None:
    """Of 300 samples a class, two orders agree by chance once in 300!; of 200 rounds of 3, all once in 6^199."""
    labels = np.repeat([0, 1, 2], 300)
    order = Balanced(labels, 900, seed=1)
    first, second = order(0), order(1)
    assert len(np.unique(labels[first].reshape(300, 3), axis=0)) == 6
    for label in range(3):
        epochs = [batch[labels[batch] == label] for batch in (first, second)]
        assert sorted(epochs[0]) == sorted(epochs[1])
        assert not np.array_equal(*epochs)
        assert not np.array_equal(epochs[0], np.sort(epochs[0]))
    assert not np.array_equal(first, Balanced(labels, 900, seed=2)(0))


@pytest.mark.slow
@given(labels=LABELS)
def test_weights_make_all_classes_count_the_same(labels: np.ndarray) -> None:
    """The weights of each class add up to n over the number of those that have samples, so that their mean is 1."""
    weights = class_weights(dataset(labels), "weights")
    assert weights is not None
    assert weights.dtype == np.float32
    there = np.unique(labels)
    for label in there:
        assert weights[labels == label].sum() == pytest.approx(len(labels) / len(there), rel=1e-5)


def test_weights_that_are_given_are_scaled_to_mean_1() -> None:
    weights = class_weights(dataset(np.asarray([0, 0, 1, 2]), 3), "2, 1,0")
    np.testing.assert_allclose(weights, np.asarray([2, 2, 1, 0]) / 1.25)


@pytest.mark.parametrize("balance", ["none", "weights", "1,1,1,1,1"])
def test_the_order_is_as_ever_where_it_is_not_balanced(balance: str) -> None:
    labels = np.asarray([0, 1, 2, 0, 3, 4])
    np.testing.assert_array_equal(make_order(dataset(labels), 4, 3, balance)(5), batch_indices(6, 4, 5, 3))
    assert (class_weights(dataset(labels), balance) is None) == (balance == "none")


@pytest.mark.parametrize(
    ("balance", "line"),
    [
        ("ordr", "^data.balance is 'ordr': give none, order, weights, or a number for each class, such as 1,2,1$"),
        ("1,2", "^data.balance has 2 weights, and there are 5 classes: give one for each$"),
        ("1,2,3,4,-1", "give numbers from 1e-9 to 1e9, or 0$"),
        ("1,2,3,4,nan", "give numbers from 1e-9 to 1e9, or 0$"),
        ("1e308,1e308,1,1,1", "give numbers from 1e-9 to 1e9, or 0$"),
        ("5e-324,0,0,0,0", "give numbers from 1e-9 to 1e9, or 0$"),
        ("0,0,0,1,1", "no sample would count"),
    ],
)
def test_a_wrong_balance_is_one_line(balance: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        class_weights(dataset(np.asarray([0, 1, 2, 0])), balance)


def test_there_must_be_classes() -> None:
    line = "but there are no classes in made up: 6 images 2x2x1: leave it out"
    with pytest.raises(ConfigError, match=line):
        make_order(dataset(None), 2, 0, "order")
    with pytest.raises(ConfigError, match=line):
        class_weights(dataset(None), "weights")
