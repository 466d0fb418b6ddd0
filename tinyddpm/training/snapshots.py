"""Snapshots of a run's power-function averages, from which averages of any length are made after training.

`averages/step_<step>.h5` in a run folder holds the averages of all the run's lengths after that step, one dataset per
parameter: `<length>/<path>`. An average that is made of them is a checkpoint beside them,
`averages/length-<length>.h5`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinyddpm.backend import load_backend
from tinyddpm.errors import CheckpointError, ConfigError, DataError
from tinyddpm.hdf5 import read_file, write_file
from tinyddpm.model.averages import exponent_of, fit, lengths_of, name_of
from tinyddpm.model.checkpoint import (
    ORIGINS,
    Checkpoint,
    CheckpointHeader,
    Layout,
    Vector,
    join,
    read_checkpoint_header,
    save_checkpoint,
    shapes,
    split,
)
from tinyddpm.model.config import Config
from tinyddpm.model.load import CHECKPOINT, layout_of
from tinyddpm.training.spent import Spent
from tinyddpm.training.trainer import Trainer

FOLDER = "averages"
"""The folder of snapshots in a run folder."""

FORMAT = "tinyddpm averages"
SCHEMA = 1

COUNT = 50
"""Number of snapshots of a run whose setting `training.snapshot_every` is 0."""

NAME = re.compile(r"step_([0-9]{7,15})\.h5")


class Snapshots:
    """Takes the snapshots of a run; none if the run has no power-function averages.

    Args:
        trainer: the run's trainer.
        folder: the run folder.
        say: called with one line about the space that snapshots will take, and for each that cannot be written.
        spent: counts the time of snapshots as saving.
    """

    def __init__(self, trainer: Trainer, folder: Path, say: Callable[[str], None], spent: Spent) -> None:
        self.trainer, self.folder, self.say, self.spent = trainer, folder / FOLDER, say, spent
        training = trainer.config.training
        self.every = training.snapshot_every or -(-training.steps // COUNT)
        self._taken = 0

    def begin(self) -> None:
        """Create the folder, and remove snapshots of later steps, which a resumed run takes again.

        Raises:
            DataError: the folder cannot be written.
        """
        trainer = self.trainer
        if not trainer.averaged or not trainer.group.first:
            return
        try:
            self.folder.mkdir(exist_ok=True)
            later = [path for step, path in snapshots(self.folder.parent).items() if step > trainer.step]
            for path in (*later, *self.folder.glob(".step_*.tmp")):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"cannot write {self.folder}: {error.strerror or error}; check its permissions") from error
        count = -(-trainer.config.training.steps // self.every) - trainer.step // self.every
        size = 4 * trainer.model.layout.size * len(trainer.averaged) / 2**20
        self.say(
            f"averages: lengths {', '.join(trainer.averaged)}; up to {count} snapshots of {size:,.1f} MiB each go to"
            f" {self.folder}"
        )

    def take_if_due(self) -> None:
        """Take a snapshot if the number of steps is a multiple of `every`."""
        if self.trainer.step % self.every == 0:
            self.take()

    def take(self) -> None:
        """Take a snapshot of this step, unless it was just taken. If it cannot be written, say so and go on."""
        if self.trainer.averaged and self.trainer.step != self._taken:
            self._taken = self.trainer.step
            with self.spent.on("saving"):
                self._write()

    def _write(self) -> None:
        trainer = self.trainer
        averages = trainer.averages()
        if not trainer.group.first:
            return
        layout = [(parameter.path, parameter.shape) for parameter in trainer.model.layout.parameters]
        header = {"format": FORMAT, "schema": SCHEMA, "step": trainer.step}
        try:
            write_file(self.folder / f"step_{trainer.step:07d}.h5", split(averages, layout), header, CheckpointError)
        except CheckpointError as error:
            self.say(f"note: {error}; the run goes on without this snapshot")


def snapshots(run: Path) -> dict[int, Path]:
    """Return the paths of the snapshots in a run folder by their steps, in order."""
    found = ((NAME.fullmatch(path.name), path) for path in (run / FOLDER).glob("step_*.h5"))
    return dict(sorted((int(name[1]), path) for name, path in found if name))


def read_snapshot(path: Path, step: int, names: Sequence[str], layout: Layout) -> dict[str, Vector]:
    """Return the flat averages in a snapshot by the names of their lengths.

    Raises:
        CheckpointError: the snapshot is damaged, of another network, or not of this step.
    """

    def expected(header: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
        if (header.get("format"), header.get("schema"), header.get("step")) != (FORMAT, SCHEMA, step):
            raise CheckpointError(f"{path} is not the snapshot of step {step} that its name says")
        return shapes(names, layout)

    try:
        _, arrays = read_file(path, CheckpointError, expected)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; or remove it, and the other snapshots stand in for it") from error
    return {name: join(arrays, name) for name in names}


@dataclass(frozen=True)
class Made:
    """An average that was made of snapshots.

    Attributes:
        length: its relative length.
        path: its checkpoint.
        error: the error of its fit; see `Fit`.
        beyond: whether its length is shorter or longer than all lengths in the snapshots.
    """

    length: float
    path: Path
    error: float
    beyond: bool


def make_averages(run: Path, lengths: Sequence[float], step: int | None = None) -> list[Made]:
    """Make averages of any lengths from a run's snapshots, and write each as a checkpoint to sample from.

    This takes the memory of one snapshot and 8 bytes per parameter and length.

    Args:
        run: the run folder.
        lengths: the relative lengths.
        step: the last step that the averages include, one that has a snapshot; that of the last snapshot if None.

    Raises:
        CheckpointError: the run has no checkpoint, or a snapshot is damaged.
        ConfigError: there are no snapshots, or none of this step.
    """
    header = read_checkpoint_header(run / CHECKPOINT)
    config = Config.from_dict(header.config, str(run / CHECKPOINT))
    kept = lengths_of(config.training.average_lengths)
    found = snapshots(run)
    if not kept or not found:
        raise ConfigError(f"{run} has no snapshots of averages: train with --average-lengths 0.05,0.10")
    last = max(found) if step is None else step
    if last not in found:
        nearest = min(found, key=lambda there: abs(there - last))
        raise ConfigError(f"{run} has no snapshot of step {last}: the nearest is of step {nearest}")
    used = {there: path for there, path in found.items() if there <= last}
    times, exponents = np.repeat([*used], len(kept)), np.tile([*map(exponent_of, kept)], len(used))
    fits = [fit(times, exponents, last, exponent_of(length)) for length in lengths]
    layout = layout_of(load_backend("numpy"))(header)
    totals = _sums(used, [*map(name_of, kept)], layout, np.stack([each.shares for each in fits]))
    made = []
    for length, each, total in zip(lengths, fits, totals, strict=True):
        path = run / FOLDER / f"length-{name_of(length)}.h5"
        weights = total.astype(np.float32)
        about = {"length": name_of(length), "of": f"{len(used)} snapshots", "fit_error": f"{each.error:.2%}"}
        save_checkpoint(path, _checkpoint(header, last, weights, about), layout)
        made.append(Made(length, path, each.error, not min(kept) <= length <= max(kept)))
    return made


def _sums(used: dict[int, Path], names: Sequence[str], layout: Layout, shares: Vector) -> Vector:
    """Return `shares`, (k, n), times the n averages in all snapshots: k flat vectors in float64."""
    totals = np.zeros((len(shares), sum(prod(shape) for _, shape in layout)))
    for number, (step, path) in enumerate(used.items()):
        averages = read_snapshot(path, step, names, layout)
        for place, name in enumerate(names, number * len(names)):
            for total, row in zip(totals, shares, strict=True):
                total += row[place] * averages[name]
    return totals


def _checkpoint(header: CheckpointHeader, step: int, weights: Vector, about: dict[str, str]) -> Checkpoint:
    """Return the checkpoint of an average, which stands for the trained weights and for their running average."""
    origins = {key: header.state[key] for key in ORIGINS if key in header.state}
    return Checkpoint(
        **{**vars(header), "step": step, "state": {**origins, "averaged": about}},
        weights=weights,
        ema=weights,
        adam_m=None,
        adam_v=None,
    )
