"""Evaluation of a trained model: draw samples, compute features, compare them with real samples by metrics.

Each metric also has a floor: its value between two halves of the real samples. Drawn samples, features and numbers are
cached in a folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Array, Purpose, Random
from tinyddpm.conditions import Asked, some
from tinyddpm.data.base import Dataset
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.errors import DataError
from tinyddpm.figures.marks import Mark, mark_of, samples_of
from tinyddpm.kept import Cache, KeptRows, digest
from tinyddpm.metrics.base import Features, Numbers, Part, Sets, measure, needs
from tinyddpm.metrics.copies import closest_pairs
from tinyddpm.model.model import Model
from tinyddpm.model.sampling import draw
from tinyddpm.model.tables import GuidanceConfig, SamplingConfig
from tinyddpm.progress import Progress, duration

Indices: TypeAlias = NDArray[np.int64]
Samples: TypeAlias = NDArray[Any]

CHUNK = 256
"""Samples per cached block of features."""

QUICK = 0.1
"""Seconds per chunk below which features are not cached: computing them is as fast as reading them."""

PAIRS = 10
"""Number of closest pairs of a drawn and a training sample that are reported."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The model to evaluate, its flat weights on the device, and the checkpoint's entry in marks of pictures."""

    model: Model
    weights: Array
    checkpoint: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The closest pairs of a drawn and a training sample, nearest first.

    Attributes:
        drawn: (n, …).
        training: (n, …), the training sample nearest to each drawn one.
        distance: (n,), between the features of each pair.
        mark: provenance of the drawn samples.
    """

    drawn: Samples
    training: Samples
    distance: NDArray[np.float64]
    mark: Mark


@dataclass(frozen=True, eq=False)
class Measured:
    """Result of an evaluation: numbers by name, and the closest pairs, None if no training samples were given."""

    numbers: Numbers
    pairs: Pairs | None


@dataclass(frozen=True, eq=False)
class Known:
    """A set of samples with its features, and a hash of everything that they depend on, the cache key."""

    part: Part
    key: str


class Evaluation:
    """Evaluation of one model under varying settings of sampling and guidance.

    Each drawn sample has the condition of a real one: its class, its caption, or whatever the model is conditioned on.
    Real samples are put in a random order. Drawn samples are compared with the last n real ones. For the floor, the
    first n real ones take the place of drawn ones. With fewer than 2n real samples, drawn ones are compared with the
    last n or all of them, and the floor compares two halves.

    Args:
        subject: the model.
        features: maps samples to features.
        features_key: name and options of the features, JSON-serialisable.
        metrics: the options of each metric, by its name.
        real: samples that the model was not trained on.
        training: samples that the model was trained on; None if no metric needs them.
        cache: stores drawn samples, features and numbers.
        count: number n of samples to draw.
        seed: seed of the noise and of the order of the real samples.
        batch_size: number of samples drawn at a time.
        progress: progress line.
        group: ranks that draw and compute features together; rank 0 computes the metrics.

    Attributes:
        compared: number of real samples that drawn ones are compared with.
        halves: number of real samples on each side of the floor.

    Raises:
        DataError: there are fewer than four real samples, or the features are not defined for them.
    """

    def __init__(
        self,
        subject: Subject,
        features: Features,
        features_key: Any,
        metrics: Mapping[str, Mapping[str, Any]],
        real: Dataset,
        training: Dataset | None,
        cache: Cache,
        *,
        count: int,
        seed: int,
        batch_size: int,
        progress: Progress,
        group: Group = ALONE,
    ) -> None:
        if len(real) < 4:
            raise DataError(f"{real.description}: {len(real)} samples are too few for two halves: give four or more")
        self.subject, self.features, self.features_key, self.metrics = subject, features, features_key, metrics
        self.group = group
        self.cache, self.count, self.seed, self.batch_size, self.progress = cache, count, seed, batch_size, progress
        self.compared, self.halves = min(count, len(real)), min(count, len(real) // 2)
        self.real, self.training = real, training
        self.order = Random(np, seed).permutation(Purpose.ORDER, 0, len(real))
        self._half = self._of(real, self.order[: self.halves], "real samples, one half")
        self._other_half = self._of(real, self.order[-self.halves :], "real samples, the other half")
        self._compared = self._other_half
        if self.compared > self.halves:
            self._compared = self._of(real, self.order[-self.compared :], "real samples, all")
        self._training: Known | None = None
        if training is not None:
            self._training = self._of(training, np.arange(len(training)), "training samples")

    def floor(self) -> Numbers:
        """Return the metrics of one half of the real samples, in the place of drawn ones, against the other half."""
        return self._numbers(self._half, self._other_half)

    def measure(self, sampling: SamplingConfig, guidance: GuidanceConfig) -> Measured:
        """Draw samples with these settings and return their numbers and closest pairs."""
        model = self.subject.model
        asked = model.known(self.real, self.order[np.arange(self.count) % len(self.order)])
        mark = mark_of(
            model,
            "tinyddpm evaluate",
            self.subject.checkpoint,
            seed=self.seed,
            sampling=sampling,
            guidance=guidance,
            samples=[],
        )
        samples = self._draw(sampling, guidance, asked, mark)
        drawn = self._see(lambda rows: samples[rows], asked, len(samples), "drawn samples")
        numbers = self._numbers(drawn, self._compared)
        return Measured(numbers, self._pairs(samples, drawn, asked, mark))

    def _draw(self, sampling: SamplingConfig, guidance: GuidanceConfig, asked: Asked, mark: Mark) -> Samples:
        """Return n samples; those in the cache are not drawn again."""
        watch = Watch(self.progress, f"drawing {self.count} samples")
        return draw(
            self.subject.model,
            self.subject.weights,
            np.arange(self.count),
            asked,
            seed=self.seed,
            sampling=sampling,
            guidance=guidance,
            batch_size=self.batch_size,
            watch=watch.at,
            kept=KeptRows(self.cache.folder / "drawn", mark),
            group=self.group,
        ).values

    def _of(self, dataset: Dataset, rows: Indices, text: str) -> Known:
        return self._see(lambda part: dataset.read(rows[part]), some(dataset, rows), len(rows), text)

    def _see(self, read: Callable[[slice], Samples], what: Asked, n: int, text: str) -> Known:
        """Return the features of n samples, computed chunk by chunk, with their classes and captions."""
        watch, keys, seen = Watch(self.progress, f"looking at {text}"), list[str](), list[Mapping[str, Samples]]()
        for turn in self._turns(n):
            own = None
            if self.group.rank < len(turn):
                samples = read(turn[self.group.rank])
                key = digest(self.features_key, self.features.description, samples)
                own = key, self._look(samples, key)
            for key, rows_by_name in filter(None, self.group.gather(own)):
                keys.append(key)
                seen.append(rows_by_name)
            watch.at(turn[-1].stop, n)
        rows_by_name = {name: np.concatenate([chunk[name] for chunk in seen]) for name in seen[0]}
        model = self.subject.model
        labels, words = what.labels if model.condition_name else None, model.condition.words(what)
        key = digest(keys, None if labels is None else labels.tolist(), None if words is None else list(words))
        return Known(Part(**rows_by_name, labels=labels, words=words), key)

    def _turns(self, n: int) -> Iterator[list[slice]]:
        """Yield lists of chunks that the ranks process at the same time, one chunk per rank."""
        chunks = _chunks(n)
        for start in range(0, len(chunks), self.group.size):
            yield chunks[start : start + self.group.size]

    def _look(self, samples: Samples, key: str) -> Mapping[str, Samples]:
        """Return features and, if there are any, logits of a chunk; from the cache if they took long to compute."""

        def looked() -> dict[str, Samples]:
            return {name: rows for name, rows in self.features(samples)._asdict().items() if rows is not None}

        if self.cache.has("features", key):
            return self.cache.arrays("features", key, looked)
        began = time.monotonic()
        found = looked()
        return found if time.monotonic() - began < QUICK else self.cache.arrays("features", key, lambda: found)

    def _numbers(self, drawn: Known, real: Known) -> Numbers:
        numbers: dict[str, float] = {}
        sets = Sets(drawn.part, real.part, self._training.part if self._training else None)
        if not self.group.first:
            return self.group.broadcast(numbers)
        for name, options in self.metrics.items():
            training = self._training.key if self._training and "training" in needs(name) else ""
            key = digest(name, options, drawn.key, real.key, training)
            numbers |= self.cache.numbers(key, partial(measure, name, sets, **options))
        return self.group.broadcast(numbers)

    def _pairs(self, samples: Samples, drawn: Known, asked: Asked, mark: Mark) -> Pairs | None:
        if self._training is None or self.training is None or not self.group.first:
            return None
        sets = Sets(drawn.part, self._compared.part, self._training.part)

        def closest() -> Mapping[str, Samples]:
            return dict(zip(("drawn", "training", "distance"), closest_pairs(sets, PAIRS), strict=True))

        found = self.cache.arrays("pairs", digest(drawn.key, self._training.key, PAIRS), closest)
        rows = found["drawn"]
        mark = {**mark, "samples": samples_of(self.subject.model, some(asked, rows), rows)}
        return Pairs(samples[rows], self.training.read(found["training"]), found["distance"], mark)


class Watch:
    """A progress line with an estimate of the remaining time from the mean rate so far."""

    def __init__(self, progress: Progress, text: str) -> None:
        self.progress, self.text, self.began = progress, text, time.monotonic()

    def at(self, done: int, total: int) -> None:
        """Report that `done` of `total` are done."""
        left = (time.monotonic() - self.began) / done * (total - done)
        self.progress.update(done, total, f"{self.text}, {duration(left)} left")
        if done == total:
            self.progress.close()


def _chunks(n: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
