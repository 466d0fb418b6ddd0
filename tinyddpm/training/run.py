"""A training run: its folder, its loop, and how it stops and goes on.

A run folder holds `config.toml`, `metrics.jsonl`, `checkpoint.h5`, a grid per `sample_every` steps under `samples/`,
and at the end `samples.png` and `denoising.gif`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from signal import Signals
from statistics import median
from typing import Any

import numpy as np

from tinyddpm.backend import Array, Backend, load_backend
from tinyddpm.data import open_dataset, parse_size
from tinyddpm.data.base import Dataset, split_dataset
from tinyddpm.data.batching import check_batch_size
from tinyddpm.errors import CheckpointError, ConfigError, TrainingError
from tinyddpm.figures.files import replacing
from tinyddpm.figures.images import save_gif, save_png
from tinyddpm.samplers import Step
from tinyddpm.training.checkpoint import (
    Checkpoint,
    CheckpointHeader,
    load_checkpoint,
    plugin_notes,
    read_checkpoint_header,
    save_checkpoint,
)
from tinyddpm.training.config import Config
from tinyddpm.training.interrupt import interruptible
from tinyddpm.training.metrics import Metrics
from tinyddpm.training.model import Model
from tinyddpm.training.progress import Progress, duration
from tinyddpm.training.sampling import Samples, animation, default_labels, draw, is_drawable, picture
from tinyddpm.training.trainer import StepResult, Trainer

CHECKPOINT = "checkpoint.h5"
SAMPLE_BATCH = 128


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the steps done, the pictures written, and the signal that stopped it, if one did."""

    step: int
    pictures: list[Path]
    signal: Signals | None = None


def open_data(config: Config) -> Dataset:
    """Return the data set that `config` names."""
    data = config.data
    size = parse_size(data.image_size) if data.image_size else None
    return open_dataset(data.source, image_size=size, data_dir=data.data_dir)


def with_threads(config: Config, backend: Backend) -> Config:
    """Return `config` with a number of threads, the backend's cores if it leaves them open.

    A sum cut into other parts rounds otherwise, so a run keeps this number, wherever it goes on.
    """
    threads = config.training.threads or backend.cores()
    return replace(config, training=replace(config.training, threads=threads))


def make_trainer(config: Config, backend: Backend, dataset: Dataset) -> Trainer:
    """Return a trainer at step 0 for `dataset`, some of which it holds out.

    Raises:
        ConfigError: labels are asked for where there are none, or the network does not fit the samples.
        DataError: there are too few samples.
    """
    if config.data.labels and not dataset.classes:
        raise ConfigError(f"data.labels is true, but there are no labels in {dataset.description}: set it to false")
    classes = dataset.classes if config.data.labels else ()
    model = Model(config, dataset.shape, classes, backend, config.training.threads)
    held_out = max(1, min(config.data.validation, len(dataset) // 10))
    _try_sampler(model)
    train, validation = split_dataset(dataset, held_out, config.seed)
    check_batch_size(len(train), config.training.batch_size)
    return Trainer(model, train, validation)


def _try_sampler(model: Model) -> None:
    """Take the first step of drawing one sample, so that a bad option is refused now and not when training is done."""
    weights = model.backend.asarray(model.layout.initialise(model.config.seed))
    next(model.sample(weights, np.zeros(1, int), np.zeros(1, int), model.config.seed, model.config.sampling))


def free_folder(base: Path) -> Path:
    """Return `base`, or the first of `base`-2, `base`-3, … that does not exist."""
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def start(config: Config, backend: Backend, folder: Path, progress: Progress) -> Outcome:
    """Train from step 0 into `folder`, which must not hold a run already.

    Raises:
        ConfigError: the folder is in use.
        TrainingError: the loss left the finite numbers.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty: choose another folder with --out, or go on with --resume {folder}")
    config = with_threads(config, backend)
    dataset = open_data(config)
    trainer = make_trainer(config, backend, dataset)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    _write_config(folder, config)
    progress.say(f"data: {dataset.description}")
    return _Run(trainer, folder, progress, {}).train()


def resume(
    folder: Path, progress: Progress, steps: int | None = None, backend: str | None = None, device: str | None = None
) -> Outcome:
    """Go on where the checkpoint in `folder` was made: to `steps` in all, and on `backend` and `device`, if given.

    Raises:
        CheckpointError: there is no usable checkpoint, or the data set is not the one that it was trained on.
        ConfigError: it has already done that many steps.
    """
    path = folder / CHECKPOINT if folder.is_dir() else folder
    folder = path.parent
    before = Config.from_dict(read_checkpoint_header(path).config, str(path))
    config = replace(
        before,
        backend=backend or before.backend,
        device=device if backend or device else before.device,
        training=replace(before.training, steps=steps or before.training.steps),
    )
    there = load_backend(config.backend, config.device)
    checkpoint = load_checkpoint(path, layout_of(there))
    if checkpoint.step >= config.training.steps:
        raise ConfigError(f"{path} has done {checkpoint.step} steps already: ask for more with --steps")
    dataset = open_data(config)
    trainer = make_trainer(config, there, dataset)
    state = dict(checkpoint.state)
    if state.pop("samples") != len(dataset) or checkpoint.sample_shape != dataset.shape:
        raise CheckpointError(f"{path} was trained on other data than {dataset.description}: restore it as it was")
    trainer.restore(checkpoint)
    (folder / "samples").mkdir(exist_ok=True)
    _write_config(folder, config)
    for note in plugin_notes(checkpoint):
        progress.say(f"note: {note}")
    progress.say(f"resuming {path} at step {trainer.step}")
    return _Run(trainer, folder, progress, state).train()


@dataclass(frozen=True)
class Estimate:
    """What a run would take: its data, parameters, peak memory in bytes and seconds per step, both measured."""

    data: str
    parameters: int
    memory: int
    seconds_per_step: float


def estimate(config: Config, backend: Backend, steps: int = 3) -> Estimate:
    """Do a few training steps, writing nothing, and return what they took. The first, which warms up, is not timed."""
    dataset = open_data(config)
    trainer = make_trainer(config, backend, dataset)
    seconds = []
    for _ in range(1 + steps):
        began = time.perf_counter()
        trainer.train_step()
        backend.synchronize()
        seconds.append(time.perf_counter() - began)
    return Estimate(dataset.description, trainer.model.layout.size, backend.peak_memory(), median(seconds[1:]))


def layout_of(backend: Backend) -> Any:
    """Return the function that tells a checkpoint's parameters from its header, for `load_checkpoint`."""

    def layout(header: CheckpointHeader) -> list[tuple[str, tuple[int, ...]]]:
        model = Model(Config.from_dict(header.config), header.sample_shape, header.classes, backend)
        return [(parameter.path, parameter.shape) for parameter in model.layout.parameters]

    return layout


def load_model(path: Path, backend: Backend, raw: bool = False, threads: int = 0) -> tuple[Model, Array, Checkpoint]:
    """Return the model in a checkpoint (or in the run folder that holds one) and its flat weights on the device.

    Args:
        path: a checkpoint, or a run folder.
        backend: where to compute.
        raw: the weights as trained, instead of their average.
        threads: the threads that share a batch; 0 for the backend's cores.
    """
    path = path / CHECKPOINT if path.is_dir() else path
    checkpoint = load_checkpoint(path, layout_of(backend), moments=False)
    config = Config.from_dict(checkpoint.config, str(path))
    model = Model(config, checkpoint.sample_shape, checkpoint.classes, backend, threads)
    return model, backend.asarray(checkpoint.weights if raw else checkpoint.ema), checkpoint


def _write_config(folder: Path, config: Config) -> None:
    with replacing(folder / "config.toml") as file:
        file.write(config.to_toml().encode())


class _Stopped(Exception):  # noqa: N818 - not an error: somebody asked to stop while samples were drawn
    pass


class _Run:
    """The loop around a trainer. `state` is what else must survive a stop, such as the loss since the last log line."""

    def __init__(self, trainer: Trainer, folder: Path, progress: Progress, state: dict[str, Any]) -> None:
        self.trainer, self.folder, self.progress = trainer, folder, progress
        self.config = trainer.config
        self.loss_sum: float = state.get("loss_sum", 0.0)
        self.loss_count: int = state.get("loss_count", 0)
        self.validation: float | None = state.get("validation")
        self.saved_at: int | None = trainer.step or None
        self.metrics = Metrics(folder / "metrics.jsonl", trainer.step)

    def train(self) -> Outcome:
        """Train to the configured number of steps, or until told to stop."""
        training, trainer = self.config.training, self.trainer
        self.began, self.first = time.monotonic(), trainer.step
        with interruptible() as self.interrupt:
            while trainer.step < training.steps and not self.interrupt.signal:
                self._log(self._step())
                last = trainer.step == training.steps
                if trainer.step % training.validate_every == 0 or last:
                    self._validate()
                if trainer.step % training.save_every == 0 or last or self.interrupt.signal:
                    self._save()
                if trainer.step % training.sample_every == 0 and not last:
                    self._draw_grid(self.folder / "samples" / f"step_{trainer.step:07d}.png")
            if self.saved_at != trainer.step:
                self._save()
            pictures = self._finish() if trainer.step == training.steps else []
        return Outcome(trainer.step, pictures, self.interrupt.signal)

    def _step(self) -> StepResult:
        try:
            return self.trainer.train_step()
        except TrainingError as error:
            self.progress.close()
            last = f"the last good checkpoint is {self.folder / CHECKPOINT} (step {self.saved_at})"
            advice = last if self.saved_at else "there is no checkpoint yet"
            raise TrainingError(f"{error}: {advice}; try a lower --learning-rate or a longer --warmup") from error

    def _log(self, result: StepResult) -> None:
        self.loss_sum += result.loss
        self.loss_count += 1
        elapsed = (time.monotonic() - self.began) / (result.step - self.first)
        speed = self.config.training.batch_size / elapsed
        left = duration(elapsed * (self.config.training.steps - result.step))
        held_out = "" if self.validation is None else f"  held out {self.validation:.4f}"
        mean = self.loss_sum / self.loss_count
        steps = self.config.training.steps
        self.progress.update(result.step, steps, f"loss {mean:.4f}{held_out}  {speed:.0f} samples/s  {left} left")
        if result.step % self.config.training.log_every == 0:
            self.metrics.append(
                step=result.step,
                loss=mean,
                gradient_norm=result.gradient_norm,
                learning_rate=result.learning_rate,
                samples_per_second=round(speed, 1),
            )
            self.loss_sum, self.loss_count = 0.0, 0

    def _validate(self) -> None:
        self.validation = self.trainer.validation_loss()
        self.metrics.append(step=self.trainer.step, validation_loss=self.validation)

    def _save(self) -> None:
        samples = len(self.trainer.train) + len(self.trainer.held_out)
        state = {
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "validation": self.validation,
            "samples": samples,
        }
        layout = [(parameter.path, parameter.shape) for parameter in self.trainer.model.layout.parameters]
        save_checkpoint(self.folder / CHECKPOINT, self.trainer.checkpoint(state), layout)
        self.saved_at = self.trainer.step

    def _draw(self, frames: bool) -> Samples:
        sampling, model = self.config.sampling, self.trainer.model
        numbers = np.arange(sampling.count)
        total = -(-sampling.count // SAMPLE_BATCH) * (sampling.steps or model.process.T)
        done = count(1)

        def watch(step: Step) -> None:
            self.progress.update(next(done), total, f"drawing {sampling.count} samples")
            if self.interrupt.signal:
                raise _Stopped

        try:
            return draw(
                model,
                self.trainer.ema,
                numbers,
                default_labels(numbers, len(model.classes)),
                seed=self.config.seed,
                sampling=sampling,
                batch_size=SAMPLE_BATCH,
                frames=frames,
                watch=watch,
            )
        finally:
            self.progress.close()

    def _draw_grid(self, path: Path) -> None:
        if is_drawable(self.trainer.model.sample_shape):
            with suppress(_Stopped):
                save_png(path, picture(self._draw(frames=False)))

    def _finish(self) -> list[Path]:
        """Draw the samples and the denoising that a finished run ends with."""
        grid, film = self.folder / "samples.png", self.folder / "denoising.gif"
        if not is_drawable(self.trainer.model.sample_shape):
            return []
        with suppress(_Stopped):
            samples = self._draw(frames=True)
            save_png(grid, picture(samples))
            save_gif(film, animation(samples))
            return [grid, film]
        return []
