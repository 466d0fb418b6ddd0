"""A training run: its folder, its loop, and how it stops and goes on.

A run folder holds `config.toml`, `metrics.jsonl`, `run.json`, `checkpoint.h5`, a grid per `sample_every` steps and of
the last one under `samples/`, snapshots of averages that it keeps under `averages/`, and at the end `samples.png` and
`denoising.gif`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyddpm.backend import Backend, load_backend
from tinyddpm.data.base import Dataset
from tinyddpm.data.fingerprint import differences, fingerprint
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.errors import (
    CheckpointError,
    ConfigError,
)
from tinyddpm.files import replacing
from tinyddpm.machine import versions
from tinyddpm.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    plugin_notes,
    read_checkpoint_header,
)
from tinyddpm.model.config import Config
from tinyddpm.model.load import checkpoint_file, layout_of
from tinyddpm.model.model import classes_learned
from tinyddpm.progress import Progress, late
from tinyddpm.training.assembly import learns, make_trainer, open_data, with_learned, with_threads
from tinyddpm.training.callbacks import Callbacks
from tinyddpm.training.edited import another_from, edited, with_changes
from tinyddpm.training.initial import Initial
from tinyddpm.training.lock import held, in_folder
from tinyddpm.training.loop import Outcome, Run
from tinyddpm.training.pictures import is_drawn, last_pictures
from tinyddpm.training.record import PACKAGES, Record

CONFIG = "config.toml"
"""A run's settings."""


def start(
    config: Config,
    backend: Backend,
    folder: Path,
    progress: Progress,
    dataset: Dataset | None = None,
    group: Group = ALONE,
    initial: Initial | None = None,
    cache: bool = True,
) -> Outcome:
    """Train from step 0 into `folder`, which must not hold a run already, on `dataset` or what the configuration names.

    The ranks of a group train together; the first one writes. The weights are those of `initial` to begin with, if it
    is given: Adam and the average begin anew. For `cache` see `open_dataset`.

    Raises:
        CheckpointError: the initial weights cannot be read, or do not fit.
        ConfigError: the folder is not empty, another run holds its lock, or ranks differ.
        TrainingError: the loss left the finite numbers.
    """
    if group.first:
        _refuse_used(folder)
    found = group.broadcast(initial.read() if initial and group.first else None)
    config = with_threads(config, backend, group)
    callbacks = Callbacks(config.callbacks if group.first else {}, progress.say)
    with late(progress) as watch:
        dataset = dataset or open_data(config, watch, cache)
        config = with_learned(config, dataset)
        trainer = make_trainer(config, backend, dataset, group=group)
        state: dict[str, Any] = {"data": fingerprint(dataset, watch)}
    if initial and found:
        trainer.begin_with(initial.weights(found, trainer.model, trainer.initial(), progress.say))
        state["initial"] = initial.origin(found)
        if "imported" in found.state:
            state["imported"] = found.state["imported"]
    group.same({"versions": versions(PACKAGES), "settings": config.to_dict(), "data": state["data"]})
    with held(folder, progress.say) if group.first else nullcontext():
        if group.first:
            _refuse_used(folder)
            (folder / "samples").mkdir()
            _write_config(folder, config)
        origin = getattr(dataset, "origin", "")
        progress.say(f"data: {dataset.description}{origin and f', {origin}'}")
        progress.say(f"learns: {learns(trainer.model, dataset)}")
        progress.say(f"computed by: {backend.describe()}{_ranks(group)}")
        for note in warnings_of(config):
            progress.say(f"note: {note}")
        record = Record(folder, trainer, dataset.description, progress.say)
        return Run(trainer, folder, progress, callbacks, record, state).train()


def resume(
    folder: Path,
    progress: Progress,
    dataset: Dataset | None = None,
    group: Group = ALONE,
    cache: bool = True,
    **changes: Any,
) -> Outcome:
    """Go on where the checkpoint in `folder` was made: to as many steps, elsewhere or otherwise, as `changes` say.

    They are settings by their names on the command line, of those in `MAY_CHANGE`. All others are as in the folder's
    `config.toml`. Where all steps are done, the pictures that are missing are drawn. The data are `dataset` or what the
    configuration names: those it was trained on, in content and order. The first rank of a group reads and writes the
    folder.

    Raises:
        CheckpointError: there is no usable checkpoint, or the data set is not the one that it was trained on.
        ConfigError: all is done already, another run holds the folder's lock, settings are given, or were edited in
            `config.toml`, that a run keeps, or ranks differ.
    """
    path = checkpoint_file(folder) if group.first else folder
    if group.first:
        read_checkpoint_header(path)  # refused before anything is written
    with held(path.parent, progress.say) if group.first else nullcontext():
        return _resume(path, progress, changes, dataset, group, cache)


def _read(path: Path, progress: Progress, changes: Mapping[str, Any]) -> tuple[Config, Checkpoint]:
    """Return the configuration to go on with, and the checkpoint.

    Raises:
        ConfigError: there is nothing left to do.
    """
    before = Config.from_dict(read_checkpoint_header(path).config, str(path))
    config = with_changes(edited(path.parent / CONFIG, before, progress.say), changes, path.parent)
    there = load_backend(config.backend, config.device, config.precision, config.graph)
    checkpoint = load_checkpoint(path, layout_of(there))
    drawn = all(is_drawn(file, checkpoint.step) for file in last_pictures(path.parent, checkpoint))
    if checkpoint.step > config.training.steps or (checkpoint.step == config.training.steps and drawn):
        raise ConfigError(f"{path} has done {checkpoint.step} steps already: ask for more with --steps")
    return config, checkpoint


def _resume(
    path: Path,
    progress: Progress,
    changes: Mapping[str, Any],
    dataset: Dataset | None,
    group: Group,
    cache: bool,
) -> Outcome:
    folder = path.parent
    found = group.broadcast(_read(path, progress, changes) if group.first else None)
    assert found is not None
    config, checkpoint = found
    before = Config.from_dict(checkpoint.config, str(path))
    ranks = checkpoint.state.get("ranks", 1)
    if ranks != group.size:
        config = _for_ranks(config, ranks, group, progress)
    there = group.load_backend(config.backend, config.device, config.precision, config.graph)
    callbacks = Callbacks(config.callbacks if group.first else {}, progress.say)
    with late(progress) as watch:
        dataset = dataset or open_data(config, watch, cache)
        now = fingerprint(dataset, watch)
    changed = differences(checkpoint.state.get("data", {}), now)
    if checkpoint.sample_shape != dataset.shape:
        changed.append("the shape of a sample")
    elif checkpoint.classes != classes_learned(config, dataset.classes):
        changed.append("the classes")
    if changed:
        raise CheckpointError(
            f"{path} was trained on other data than {dataset.description}: {' and '.join(dict.fromkeys(changed))}"
            f" changed; restore the data as they were, or {another_from(folder)}"
        )
    trainer = make_trainer(config, there, dataset, group=group)
    trainer.restore(checkpoint)
    group.same({"versions": versions(PACKAGES), "data": now})
    if group.first:
        (folder / "samples").mkdir(exist_ok=True)
        _write_config(folder, config)
    for note in _consequences(before, config, ranks == group.size):
        progress.say(f"note: {note}")
    for note in plugin_notes(checkpoint):
        progress.say(f"note: {note}")
    progress.say(f"computed by: {there.describe()}{_ranks(group)}")
    progress.say(f"resuming {path} at step {trainer.step}")
    record = Record(folder, trainer, dataset.description, progress.say)
    return Run(trainer, folder, progress, callbacks, record, {**checkpoint.state, "data": now}).train()


def _consequences(before: Config, config: Config, as_many_ranks: bool) -> list[str]:
    """Return what changed settings change of the steps to come, a line each."""
    was, now, notes = before.training, config.training, []
    if now.learning_rate != was.learning_rate:
        notes.append(f"from here on the learning rate is {now.learning_rate:g}, and no longer {was.learning_rate:g}")
    if now.steps != was.steps and config.rate.name != "constant":
        notes.append(f"from here on the learning rate falls to step {now.steps}, and no longer to {was.steps}")
    if now.threads != was.threads and as_many_ranks:
        notes.append(
            f"from here on {now.threads} threads share a batch, and no longer {was.threads}: sums are cut otherwise, so"
            " the same numbers come but for rounding"
        )
    return notes


def warnings_of(config: Config) -> list[str]:
    """Return what a run's length leaves undone of its settings, a line each."""
    training, notes = config.training, []
    if training.steps <= training.warmup:
        notes.append(
            f"the run ends at step {training.steps}, within its warm-up of {training.warmup}: it never has its full"
            f" learning rate; give --warmup {training.steps // 20}"
        )
    horizon = 1 / (1 - training.ema)
    if training.steps < horizon:
        notes.append(
            f"the average of the weights looks back over {horizon:,.0f} steps, and the run has {training.steps}: give"
            f" --ema {max(0.0, 1 - 10 / training.steps):.4g}"
        )
    return notes


def _for_ranks(config: Config, before: int, group: Group, progress: Progress) -> Config:
    """Return the configuration for another number of ranks, which together have as many threads, if that can be."""
    threads = config.training.threads
    progress.say(
        f"note: the steps until now were done by {before} {'rank' if before == 1 else 'ranks'}, and those from here on"
        f" by {group.size}: sums are cut otherwise, so the same numbers come but for rounding"
    )
    shared = max(1, threads * before // group.size)
    return replace(config, training=replace(config.training, threads=shared))


def _ranks(group: Group) -> str:
    return f", on {group.size} ranks" if group.size > 1 else ""


def _refuse_used(folder: Path) -> None:
    if folder.is_file() or (folder.is_dir() and in_folder(folder)):
        raise ConfigError(f"{folder} is not empty: choose another folder with --out, or go on with --resume {folder}")


def _write_config(folder: Path, config: Config) -> None:
    with replacing(folder / CONFIG) as file:
        file.write(config.to_toml().encode())
