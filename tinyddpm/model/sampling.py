"""Samples from a model, in batches."""

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
"""Moments of the denoising that are kept for an animation."""


@dataclass(frozen=True)
class Samples:
    """Samples and how they came about.

    Attributes:
        values: uint8 images (n, H, W, C) or float32 points (n, D).
        labels: (n,) the class each was drawn for, None without classes.
        words: what each was drawn for in words, None without.
        frames: x_t at up to `FRAMES` moments from noise to sample, each like `values`; empty if not asked for.
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
        samples: (n,) their numbers: the same seed and number, asked for the same, give the same sample in any batch.
        asked: what is asked for, a row a sample; an unconditional model ignores it.
        seed: of the noise.
        sampling: sampler, options and steps.
        guidance: which guidance and its options; the configuration's own by default.
        batch_size: how many at a time.
        frames: keep moments of the denoising.
        watch: called after every step with how many are done, and how many there are in all batches.
        kept: where each batch is written when it is drawn. What is there already is not drawn again.
        group: ranks that draw together, a batch each at a time; all get all samples, and the first keeps them.

    Raises:
        DrawingError: a sample is not finite.
        DataError: what was kept cannot be read, or a batch cannot be written.
    """
    columns = model.read(asked)  # whole: what is to be said of it is said once
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
        """Return the frames and values of some samples, or what is wrong with them: after the last step in any case."""
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
        # Ranks take the same steps: where there is none left for one, it draws another's again.
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
    """Raise a DrawingError if not all of `samples`, (n, …), are finite: as pixels they would be black."""
    finite = np.isfinite(samples).reshape(len(samples), -1).all(axis=1)
    if not finite.all():
        raise DrawingError(
            f"sample {np.argmin(finite)} of {len(samples)} is not finite: the weights are too large to draw with; take"
            " an earlier checkpoint, or train anew with a lower --learning-rate"
        )


def on_host(model: Model, x: Array) -> HostArray:
    """Return samples `x` of the device: images in [−1, 1] as uint8, points as they are.

    Raises:
        DrawingError: a sample is not finite.
    """
    host = model.backend.to_numpy(x)
    check_finite(host)
    return from_model(host) if model.is_image else host


def class_numbers(classes: tuple[str, ...], chosen: Sequence[str]) -> HostArray:
    """Return the numbers of the classes `chosen`, each by its name or number.

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
    """Return the classes in `text`, separated by commas: names with a comma in double quotes, or one alone as it is."""
    if text in classes:
        return [text]
    try:
        return next(csv.reader([text], skipinitialspace=True), [""])
    except csv.Error as error:
        raise ConfigError(f"classes {text!r} cannot be read ({error}): give their numbers") from error
