"""Metrics by the nearest real sample: whether drawn samples obey their condition, and whether they are copies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyddpm.conditions.text import words_of
from tinyddpm.metrics.base import Numbers, Part, Sets, needing
from tinyddpm.metrics.neighbours import Neighbours, nearest

NEAR = 0.01
"""Quantile of the distances from held-out real samples to the training set up to which a sample counts as near."""


def obedience(sets: Sets) -> Numbers:
    """Return how well drawn samples match the class or caption asked for, judged by the real sample nearest to each.

    `class obeyed` is the share of drawn samples whose nearest real sample has the class asked for. `words obeyed` is
    the mean share of the words asked for that are in the caption of the nearest real sample.
    """
    drawn, real = sets.drawn, sets.real
    numbers = {}
    if drawn.labels is not None and real.labels is not None:
        numbers["class obeyed"] = float((real.labels[_neighbour(sets)] == drawn.labels).mean())
    if drawn.words is not None and real.words is not None:
        found = [set(words_of(real.words[i])) for i in _neighbour(sets)]
        said = [set(words_of(text)) for text in drawn.words]
        shares = [len(words & those) / len(words) for words, those in zip(said, found, strict=True) if words]
        numbers |= {"words obeyed": float(np.mean(shares))} if shares else {}
    return numbers


def _neighbour(sets: Sets) -> NDArray[np.int64]:
    """Return the index of the real sample nearest to each drawn one, (n,)."""
    return sets.kept("nearest real", lambda: nearest(sets.drawn, sets.real)).which[:, 0]


@needing("training")
def memorisation(sets: Sets) -> Numbers:
    """Return how near drawn samples are to the training set, relative to held-out real samples.

    The distance of a sample is the distance to the nearest training sample. `training distance` is the median distance
    of drawn samples over that of real ones: 1 for a model that copies no more than chance. `near training` is the share
    of drawn samples whose distance is at most the 1 % quantile of the real samples' distances.
    """
    drawn, real = (_to_training(part, sets) for part in (sets.drawn, sets.real))
    typical = float(np.median(real.distance))
    ratio = {"training distance": float(np.median(drawn.distance)) / typical} if typical else {}
    return {**ratio, "near training": float((drawn.distance <= np.quantile(real.distance, NEAR)).mean())}


def closest_pairs(sets: Sets, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the `count` closest pairs, nearest first: indices of drawn and of training samples, and distances."""
    found = _to_training(sets.drawn, sets)
    order = np.argsort(found.distance[:, 0], kind="stable")[:count]
    return order, found.which[order, 0], found.distance[order, 0]


def _to_training(part: Part, sets: Sets) -> Neighbours:
    training = sets.training
    assert training is not None
    return part.kept(f"nearest of {id(training)}", lambda: nearest(part, training))
