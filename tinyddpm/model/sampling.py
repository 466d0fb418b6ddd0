"""Drawing samples from a model, in batches."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.conditions import Known, some
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.errors import ConfigError, DrawingError, said_before, unknown
from tinyddpm.kept import KeptRows
from tinyddpm.model.model import Model
from tinyddpm.model.tables import GuidanceConfig, SamplingConfig
from tinyddpm.ops.images import from_model
from tinyddpm.samplers.spacings import moments

HostArray = np.ndarray[Any, Any]

FRAMES = 40
"""Largest number of frames of the denoising that are kept for an animation."""


@dataclass(frozen=True)
class Samples:
    """Drawn samples, with their conditions.

    Attributes:
        values: uint8 images (n, H, W, C) or float32 points (n, D).
        labels: the class of each sample, (n,), or None without classes.
        words: the condition of each sample in words, or None if it has no words.
        frames: x_t at up to `FRAMES` steps from noise to sample, each like `values`; [] if not asked for.
    """

    values: HostArray
    labels: HostArray | None
    words: Sequence[str] | None
    frames: list[HostArray]


def draw(
    model: Model,
    weights: Array,
    samples: HostArray,
    asked: Known,
    *,
    seed: int,
    sampling: SamplingConfig,
    guidance: GuidanceConfig | None = None,
    batch_size: int,
    frames: bool = False,
    watch: Callable[[int, int], None] = lambda done, steps: None,
    kept: KeptRows | None = None,
    group: Group = ALONE,
) -> Samples:
    """Draw the samples numbered `samples`, in batches.

    Args:
        model: the model.
        weights: its flat parameters on the device.
        samples: (n,) the numbers of the samples. A sample depends on the seed, its number and its row of `asked`, not
            on its batch.
        asked: the condition of each sample, one row each; an unconditional model ignores it.
        seed: the seed of the noise.
        sampling: sampler, options and steps.
        guidance: the guidance and its options; the configuration's own by default.
        batch_size: the number of samples per batch.
        frames: whether to keep frames of the denoising.
        watch: called after every step with the number of steps done and the number in all batches.
        kept: storage to which each batch is written once it is drawn. Samples found there are not drawn again.
        group: ranks that draw together, one batch each at a time. All get all samples; the first writes them to `kept`.

    Raises:
        DrawingError: a sample is not finite.
        DataError: `kept` cannot be read or written.
    """
    columns = model.read(asked)  # all at once, so that a warning about it appears once
    keys, found = [""] * len(samples), []
    if kept is not None:
        told = (column for _, column in sorted(columns.items()))
        keys = kept.keys(samples, np.full(len(samples), frames), *told)
        found = group.broadcast(list(kept.find(keys)) if group.first else [])
    missing = np.setdiff1d(np.arange(len(samples)), np.concatenate([[], *(rows for rows, _ in found)]))
    rounds = [missing[i : i + batch_size * group.size] for i in range(0, len(missing), batch_size * group.size)]
    pairs = len(model.pairs(sampling))
    filmed = moments(pairs, FRAMES) if frames else []
    done = count(1)

    def batch(rows: HostArray) -> dict[str, HostArray] | DrawingError:
        """Return frames and values of some samples, or, so that no rank stops early, the error if one is not finite."""
        drawn = {}
        with said_before():
            steps = model.sample(weights, samples[rows], some(asked, rows), seed, sampling, guidance)
        for number, step in enumerate(steps):
            watch(next(done), len(rounds) * pairs)
            if number in filmed:
                drawn[f"frame {number:04d}"] = step.x
        drawn["values"] = step.x
        try:
            return {name: on_host(model, x) for name, x in drawn.items()}
        except DrawingError as error:
            return error

    for rows in rounds:
        own = rows[group.parts(len(rows))[group.rank]]
        # All ranks take equally many steps: one without samples of its own repeats another's.
        drawn = batch(own if len(own) else rows[:1])
        for theirs, arrays in group.gather((own, drawn)):
            if isinstance(arrays, DrawingError):
                raise arrays
            if len(theirs):
                found.append((theirs, arrays))
                if kept is not None and group.first:
                    kept.add([keys[row] for row in theirs], arrays)
    order = np.argsort(np.concatenate([rows for rows, _ in found]))
    whole = {name: np.concatenate([drawn[name] for _, drawn in found])[order] for name in sorted(found[0][1])}
    return Samples(
        values=whole.pop("values"),
        labels=asked.labels if model.classes else None,
        words=model.condition.words(asked),
        frames=list(whole.values()),
    )


def check_finite(samples: HostArray) -> None:
    """Raise a DrawingError if not all of `samples`, (n, …), are finite: NaN would become black pixels."""
    finite = are_finite(samples)
    if not finite.all():
        raise DrawingError(
            f"sample {np.argmin(finite)} of {len(samples)} is not finite: the weights are too large to draw with, or"
            " the guidance is too strong; guide less, take an earlier checkpoint, or train anew with a lower"
            " --learning-rate"
        )


def are_finite(samples: HostArray) -> HostArray:
    """Return which of `samples`, (n, …), have finite numbers alone, (n,)."""
    return np.asarray(np.isfinite(samples).reshape(len(samples), -1).all(axis=1))


def on_host(model: Model, x: Array) -> HostArray:
    """Return samples `x` on the host: images in [−1, 1] as uint8, points as they are.

    Raises:
        DrawingError: a sample is not finite.
    """
    host = model.backend.to_numpy(x)
    check_finite(host)
    return from_model(host) if model.is_image else host


def class_numbers(classes: tuple[str, ...], chosen: Sequence[str]) -> HostArray:
    """Return the numbers of the classes `chosen`, (n,), each given by its name or number.

    Raises:
        ConfigError: a class is unknown, or the model has none.
    """
    if not classes:
        raise ConfigError("the model was trained without classes: leave --labels out")
    numbers = {name: number for number, name in enumerate(classes)}
    numbers |= {str(number): number for number in range(len(classes)) if str(number) not in numbers}
    names = [name if name in numbers else name.strip() for name in chosen]
    for name in names:
        if name not in numbers:
            raise ConfigError(unknown("class", name, numbers))
    return np.asarray([numbers[name] for name in names])


def class_names(classes: tuple[str, ...], text: str) -> list[str]:
    """Return the classes listed in `text`, separated by commas. A name with a comma needs double quotes, unless alone.

    Raises:
        ConfigError: a quote is not closed, or something else than a comma follows one that is.
    """
    if text in classes:
        return [text]
    try:
        return next(csv.reader([text], skipinitialspace=True, strict=True)) or [""]
    except csv.Error as error:
        raise ConfigError(f"classes {text!r} cannot be read ({error}): give their numbers") from error
