"""A training run in a folder: how it starts, and how it is resumed.

A run folder holds `config.toml`, `metrics.jsonl`, `run.json`, `checkpoint.h5`, grids of samples under `samples/` (every
`sample_every` steps and after the last one), snapshots of averages under `averages/`, and at the end `samples.png` and
`denoising.gif`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyddpm.backend import Backend, load_backend
from tinyddpm.data.base import Dataset
from tinyddpm.data.fingerprint import differences, fingerprint
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.errors import (
    CheckpointError,
    ConfigError,
)
from tinyddpm.files import check_folder, replacing
from tinyddpm.machine import versions
from tinyddpm.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    plugin_notes,
    read_checkpoint_header,
)
from tinyddpm.model.config import Config, read_toml
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
from tinyddpm.training.rates import learning_rates
from tinyddpm.training.record import PACKAGES, Record

CONFIG = "config.toml"
"""The file with a run's settings."""


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
    """Train from step 0 into an empty or new folder.

    Args:
        config: the run's configuration.
        backend: the backend to compute on.
        folder: the run folder.
        progress: the progress line.
        dataset: the data set; the one that the configuration names if None.
        group: the ranks that train together. The first one writes.
        initial: weights to start from, which the averages start at too; random ones if None. Adam starts at zero.
        cache: see `open_dataset`.

    Raises:
        CheckpointError: the initial weights cannot be read, or do not fit.
        ConfigError: the folder is not empty, another run holds its lock, or the ranks' settings, data or versions
            differ.
        TrainingError: the loss or the weights are no longer finite, or memory ran out.
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
    """Resume a run from its checkpoint. If all steps are done, only the missing pictures are drawn.

    Args:
        folder: the run folder, or one of its checkpoints as `checkpoint_file` takes it.
        progress: the progress line.
        dataset: the data set; the one that the configuration names if None. It must have the content and the order of
            the one that the run was trained on.
        group: the ranks that train together. The first one reads and writes the folder.
        cache: see `open_dataset`.
        **changes: settings in `MAY_CHANGE`, by their command-line names. All others are those in `config.toml`.

    Raises:
        CheckpointError: there is no usable checkpoint, or the run was trained on other data.
        ConfigError: nothing is left to do, another run holds the folder's lock, `changes` or an edited `config.toml`
            change a setting that is not in `MAY_CHANGE`, or ranks differ.
        TrainingError: see `start`.
    """
    path = group.broadcast(checkpoint_file(folder) if group.first else folder)
    if group.first:
        read_checkpoint_header(path)  # raises before anything is written
    with held(path.parent, progress.say) if group.first else nullcontext():
        return _resume(path, progress, changes, dataset, group, cache)


def _read(path: Path, progress: Progress, changes: Mapping[str, Any]) -> tuple[Config, Checkpoint]:
    """Return the configuration to resume with, and the checkpoint.

    Raises:
        ConfigError: there is nothing left to do, or a setting must not change.
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
        given = "threads" in changes or config.training.threads != before.training.threads
        config = _for_ranks(config, ranks, group, progress, given)
    there = group.load_backend(config.backend, config.device, config.precision, config.graph)
    if not config.training.threads:
        config = with_threads(config, there, group)
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
    group.same({"versions": versions(PACKAGES), "settings": config.to_dict(), "data": now})
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
    """Return one line for each change of settings that changes the steps to come."""
    was, now, notes = before.training, config.training, []
    if _computed(config) != _computed(before):
        notes.append(
            f"from here on steps are computed by {_computed(config)}, and no longer by {_computed(before)}: results may"
            " differ by rounding"
        )
    if now.learning_rate != was.learning_rate:
        notes.append(f"from here on the learning rate is {now.learning_rate:g}, and no longer {was.learning_rate:g}")
    rates = learning_rates(replace(config, training=replace(now, learning_rate=was.learning_rate)))
    shared = min(now.steps, was.steps)
    if not np.array_equal(rates[:shared], learning_rates(before)[:shared]):
        notes.append(f"from here on the learning rate falls to step {now.steps}, and no longer to {was.steps}")
    if now.threads != was.threads and was.threads and as_many_ranks:  # an imported run has not counted them
        notes.append(
            f"from here on {now.threads} threads share a batch, and no longer {was.threads}: sums are in another order,"
            " so results differ by rounding"
        )
    return notes


def _computed(config: Config) -> str:
    """Return what a run computes its steps by, such as "torch on cuda:1 in bf16"."""
    return f"{config.backend}{f' on {config.device}' if config.device else ''} in {config.precision}"


def warnings_of(config: Config) -> list[str]:
    """Return one line for each setting that is too long for the run: the warm-up, and the horizon of the average."""
    training, notes = config.training, []
    if training.steps <= training.warmup:
        notes.append(
            f"the run ends at step {training.steps}, within its warm-up of {training.warmup}: it never reaches its full"
            f" learning rate; give --warmup {training.steps // 20}"
        )
    horizon = 1 / (1 - training.ema)
    if training.steps < horizon:
        notes.append(
            f"the average of the weights looks back over {horizon:,.0f} steps, and the run has {training.steps}: give"
            f" --ema {max(0.0, 1 - 10 / training.steps):.4g}"
        )
    return notes


def _for_ranks(config: Config, before: int, group: Group, progress: Progress, given: bool) -> Config:
    """Return the configuration for another number of ranks, with the same number of threads in all where possible.

    A number of threads that the user has `given` is kept: it is that of each rank.
    """
    threads = config.training.threads
    progress.say(
        f"note: the steps until now were done by {before} {'rank' if before == 1 else 'ranks'}, and those from here on"
        f" by {group.size}: sums are in another order, so results differ by rounding"
    )
    shared = threads if given else max(1, threads * before // group.size)
    return replace(config, training=replace(config.training, threads=shared))


def _ranks(group: Group) -> str:
    return f", on {group.size} ranks" if group.size > 1 else ""


def _refuse_used(folder: Path) -> None:
    check_folder(folder)
    if folder.is_dir() and in_folder(folder):
        raise ConfigError(f"{folder} is not empty: choose another folder with --out, or go on with --resume {folder}")


def _write_config(folder: Path, config: Config) -> None:
    """Write the settings, unless the file has them already: it may also have comments of the user."""
    path = folder / CONFIG
    if path.is_file() and Config.from_dict(read_toml(path), str(path)) == config:
        return
    with replacing(path) as file:
        file.write(config.to_toml().encode())
