"""The order of samples in batches, and the balance of classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Purpose, Random
from tinyddpm.data.base import Dataset, Labels
from tinyddpm.errors import ConfigError, DataError

Order: TypeAlias = Callable[[int], NDArray[np.int64]]
"""A function from the number of a training step to the indices of its samples, (batch_size,), each in [0, n)."""


def make_order(dataset: Dataset, batch_size: int, seed: int, balance: str) -> Order:
    """Return the order of the samples for a value `balance` of the setting `data.balance`.

    It caches two batches, as every part of a batch asks for all of its indices and the next batch is read ahead.

    Raises:
        ConfigError: classes are to be balanced, and the data set has none.
    """
    if balance == "order":
        return lru_cache(maxsize=2)(Balanced(_classes(dataset, balance), batch_size, seed))
    return lru_cache(maxsize=2)(partial(_shuffled, len(dataset), batch_size, seed))


def _shuffled(n: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    return batch_indices(n, batch_size, step, seed)


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of the samples in the batch of training step `step`, (batch_size,), each in [0, n).

    Each epoch is a random permutation of the n samples. Slot i of step k is place k·batch_size + i in the concatenation
    of all epochs. So every epoch visits each sample once, a batch may cross the end of an epoch, and the order has no
    state: the batch of any step can be computed directly.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, within = np.divmod(places, n)
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _order(n, int(epoch), seed)[within[here]]
    return indices


@lru_cache(maxsize=2)
def _order(n: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """Return the permutation of one epoch, (n,). Two are cached, as a batch may need both."""
    order: NDArray[np.int64] = Random(np, seed).permutation(Purpose.ORDER, epoch, n)
    order.flags.writeable = False
    return order


class Balanced:
    """An `Order` in which all classes come equally often.

    In each round, every class that has samples comes once, in random order. Slot i of step k is place k·batch_size + i
    in the concatenation of all rounds. The samples of a class come in epochs of its own, each a random permutation of
    them. The order has no state: the batch of any step can be computed directly.

    Args:
        labels: (n,) the class of each sample.
        batch_size: the number of samples per step.
        seed: the seed of all permutations.
    """

    def __init__(self, labels: Labels, batch_size: int, seed: int) -> None:
        self._members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self._batch_size, self._random = batch_size, Random(np, seed)
        self._of_class = lru_cache(maxsize=2 * len(self._members))(self._order_of_class)

    def __call__(self, step: int) -> NDArray[np.int64]:
        """Return the indices of the samples in the batch of training step `step`, (batch_size,)."""
        classes = len(self._members)
        rounds, within = np.divmod(np.arange(step * self._batch_size, (step + 1) * self._batch_size), classes)
        turns = _permuted(self._random.bits(Purpose.BALANCE, 0, np.unique(rounds), (classes, 2)))
        whose = turns[rounds - rounds[0], within]
        indices = np.empty(self._batch_size, np.int64)
        for place, (number, round_) in enumerate(zip(whose.tolist(), rounds.tolist(), strict=True)):
            epoch, at = divmod(round_, len(self._members[number]))
            indices[place] = self._of_class(number, epoch)[at]
        return indices

    def _order_of_class(self, number: int, epoch: int) -> NDArray[np.int64]:
        """Return the indices of a class's samples in the order of one of its epochs."""
        members = self._members[number]
        return members[_permuted(self._random.bits(Purpose.BALANCE, epoch, members, (2,), layer=1))]


def _permuted(words: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the permutations that sort random keys, (..., n, 2) with two words each; see `Random.permutation`."""
    return np.argsort((words[..., 0] << 32) | words[..., 1], axis=-1, kind="stable")


def class_weights(dataset: Dataset, balance: str) -> NDArray[np.float32] | None:
    """Return the weight of each sample in the loss, (n,) of mean 1; None for equal weights.

    For the value "weights" of the setting `data.balance`, a sample's weight is the inverse of its class's frequency.
    Otherwise the value lists a weight for each class, separated by commas.

    Raises:
        ConfigError: the value has another form, or there are no classes.
    """
    if balance in ("none", "order"):
        return None
    labels = _classes(dataset, balance)
    counts = np.bincount(labels, minlength=len(dataset.classes))
    each = 1.0 / np.maximum(counts, 1) if balance == "weights" else _given_weights(balance, len(dataset.classes))
    weights: NDArray[np.float64] = each[labels]
    if not weights.any():
        raise ConfigError(f"data.balance is {balance!r}: no sample would count: give a weight above 0")
    return np.asarray(weights / weights.mean(), np.float32)


def _given_weights(balance: str, classes: int) -> NDArray[np.float64]:
    """Return the weights of the classes that a setting lists, (classes,)."""
    try:
        weights = np.asarray([float(weight) for weight in balance.split(",")])
    except ValueError:
        raise ConfigError(
            f"data.balance is {balance!r}: give none, order, weights, or a number for each class, such as 1,2,1"
        ) from None
    if len(weights) != classes:
        raise ConfigError(
            f"data.balance has {len(weights)} weights, and there are {classes} classes: give one for each"
        )
    if not ((weights == 0) | (weights >= 1e-9) & (weights <= 1e9)).all():
        raise ConfigError(f"data.balance is {balance!r}: give numbers from 1e-9 to 1e9, or 0")
    return weights


def _classes(dataset: Dataset, balance: str) -> Labels:
    """Return the class of each sample, (n,), or raise a ConfigError if there are no classes."""
    if dataset.labels is None:
        raise ConfigError(
            f"data.balance is {balance!r}, but there are no classes in {dataset.description}: leave it out"
        )
    return dataset.labels


def check_batch_size(n: int, batch_size: int) -> None:
    """Raise a DataError if a batch has more than the n training samples."""
    if batch_size > n:
        raise DataError(
            f"a batch of {batch_size} is more than the {n} samples to train on: set --batch-size to at most {n},"
            " or add samples"
        )
