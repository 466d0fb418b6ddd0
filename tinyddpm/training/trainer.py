"""Training: Algorithm 1 of DDPM with Adam, and all of its state."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot
from typing import Any

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array, Purpose
from tinyddpm.backend.workers import parts
from tinyddpm.data.base import Dataset
from tinyddpm.data.batching import batch_indices, flip_horizontally, to_model
from tinyddpm.errors import CheckpointError, TrainingError
from tinyddpm.nn import DropoutNoise
from tinyddpm.ops import load_operations
from tinyddpm.training.checkpoint import PLUGIN_KEYS, Checkpoint
from tinyddpm.training.config import Config
from tinyddpm.training.model import Model
from tinyddpm.training.optimiser import Adam, average, clip_scale, global_norm, warmed_up
from tinyddpm.training.step import training_gradient, training_losses
from tinyddpm.training.times import WORDS, LossHistory

LEAST_PER_WORKER = 4
"""Samples below which a thread of its own does not pay."""

HostArray = np.ndarray[Any, Any]
Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class StepResult:
    """What one training step did: its number, counted from 1, its loss, gradient norm and learning rate."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float


class Trainer:
    """The state of a training run: weights, gradient, Adam's moments, average, the losses that times are drawn after
    (for the objective "vlb" alone), and the number of steps done.

    Every random choice of step k is a function of (seed, k), so this state and the configuration are all that it takes
    to go on as if it had never stopped.

    Args:
        model: what is trained.
        train: the samples to learn from.
        held_out: the samples of the validation loss.
    """

    def __init__(self, model: Model, train: Dataset, held_out: Dataset) -> None:
        self.model, self.train, self.held_out = model, train, held_out
        self.config = model.config
        backend, layout = model.backend, model.layout
        self.random = backend.random(self.config.seed)
        initial = layout.initialise(self.config.seed)
        self.step = 0
        self._set(initial, initial, np.zeros_like(initial), np.zeros_like(initial))
        self.history = LossHistory(model.process.T) if self.config.training.loss == "vlb" else None
        # One gradient for each worker, summed in order: no worker waits for another, and no sum depends on timing.
        workers = min(model.workers.threads, max(1, self.config.training.batch_size // LEAST_PER_WORKER))
        self._gradients: list[Array] = [backend.asarray(np.zeros_like(initial)) for _ in range(workers)]
        self._blocks = backend.blocks(layout.size)
        self.training_ops = load_operations(backend, training=True)

    def train_step(self) -> StepResult:
        """Do one step of Algorithm 1 and return what it did.

        Raises:
            TrainingError: the loss or the gradient is not finite. The weights are those of the step before.
        """
        training, step = self.config.training, self.step
        with self.model.backend.scope():
            loss, norm, drawn = self._batch_gradient()
            if not (np.isfinite(loss) and np.isfinite(norm)):
                raise TrainingError(f"the loss of step {step + 1} is {loss:g} and its gradient's norm {norm:g}")
            rate = warmed_up(training.learning_rate, step, training.warmup)
            self._update(clip_scale(norm, training.clip), rate)
        if self.history:
            self.history.record(*drawn)
        self.step += 1
        return StepResult(self.step, loss, norm, rate)

    def validation_loss(self) -> float:
        """Return the loss of the averaged weights on the held-out samples, at times and noise that never change.

        The times are uniform.
        """
        n = len(self.held_out)
        w, ops = self._views(self.ema), load_operations(self.model.backend)

        def share_of_loss(part: slice) -> float:
            samples = np.arange(n)[part]
            x_0, labels = self._read(self.held_out, samples)
            t = self._times(Purpose.VALIDATION_TIME, 0, samples)
            eps = self._noise(Purpose.VALIDATION_NOISE, 0, samples)
            cond = self.model.condition(labels)
            losses = training_losses(
                self.model.objective, self.model.network, ops, self.model.process, w, self._to_device(x_0), t, eps, cond
            )
            return float(ops.xp.mean(losses)) * len(samples) / n

        with self.model.backend.scope():
            count = len(self._gradients) * -(-n // self.config.training.batch_size)
            return sum(self.model.workers.map(share_of_loss, parts(n, count)))

    def checkpoint(self, state: dict[str, Any]) -> Checkpoint:
        """Return everything that it takes to go on; `state` is the caller's own."""
        host = self.model.backend.to_numpy
        return Checkpoint(
            config=self.config.to_dict(),
            step=self.step,
            sample_shape=self.model.sample_shape,
            classes=self.model.classes,
            plugins=plugins_of(self.config),
            weights=host(self.weights),
            ema=host(self.ema),
            adam_m=host(self.adam.m),
            adam_v=host(self.adam.v),
            history=self.history.packed() if self.history else None,
            state=state,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where `checkpoint` was made.

        Raises:
            CheckpointError: it lacks the losses that times are drawn after.
        """
        if self.history:
            if checkpoint.history is None or checkpoint.history.shape != self.history.packed().shape:
                raise CheckpointError("the checkpoint lacks the losses that vlb draws its times after: train anew")
            self.history.unpack(checkpoint.history)
        self.step = checkpoint.step
        self._set(checkpoint.weights, checkpoint.ema, checkpoint.adam_m, checkpoint.adam_v)

    def _set(self, weights: Any, ema: Any, m: Any, v: Any) -> None:
        weights, ema, m, v = (self.model.backend.asarray(np.array(a, np.float32)) for a in (weights, ema, m, v))
        self.weights: Array = weights
        self.ema: Array = ema
        self.adam = Adam(m, v)

    def _batch_gradient(self) -> tuple[float, float, tuple[Indices, HostArray]]:
        """Return the loss of this step's batch and the length of its gradient, which is left in the first buffer.

        The batch is cut over the workers, and again for accumulation. With a history the times of all samples and
        their losses come third.
        """
        batch_size, workers = self.config.training.batch_size, len(self._gradients)
        w = self._views(self.weights)
        slots = np.arange(batch_size)
        cut = parts(batch_size, workers * self.config.training.accumulate)
        drawn = np.zeros(batch_size, np.int64), np.zeros(batch_size, np.float32)

        def work(worker: int) -> float:
            gradient = self._gradients[worker]
            gradient[...] = 0.0
            dw = self._views(gradient)
            return sum(self._part_gradient(w, dw, slots[part], drawn) for part in cut[worker::workers])

        losses = self.model.workers.map(work, range(workers))
        total, *others = self._gradients

        def length_of_sum(block: slice) -> float:
            gradient = total[block]
            for other in others:
                gradient += other[block]
            return global_norm(gradient)

        return sum(losses), hypot(*self.model.workers.map(length_of_sum, self._blocks)), drawn

    def _update(self, scale: float, rate: float) -> None:
        """Take Adam's step along the gradient times `scale`, and move the average after it."""
        decay, step = self.config.training.ema, self.step

        def update(block: slice) -> None:
            weights, gradient = self.weights[block], self._gradients[0][block]
            gradient *= scale
            self.adam.update(weights, gradient, rate, step, block)
            average(self.ema[block], weights, decay, step)

        self.model.workers.map(update, self._blocks)

    def _part_gradient(
        self, w: dict[str, Array], dw: dict[str, Array], samples: Indices, drawn: tuple[Indices, HostArray]
    ) -> float:
        """Add to `dw` what some of the batch's samples, named by their places in it, add to its gradient and loss.

        With a history their times and losses are written into `drawn`.
        """
        step = self.step
        share = len(samples) / self.config.training.batch_size
        training, seed = self.config.training, self.config.seed
        places = batch_indices(len(self.train), training.batch_size, step, seed)[samples]
        x_0, labels = self._read(self.train, places)
        if self.config.data.flip:
            mirrored = self.random.uniform(Purpose.FLIP, step, samples, ()) < 0.5
            x_0 = flip_horizontally(x_0, self.model.backend.to_numpy(mirrored))
        t, weight = self._training_times(samples, drawn)
        eps = self._noise(Purpose.NOISE, step, samples)
        dropout = DropoutNoise(self.random, step, samples)
        losses = training_gradient(
            self.model.objective, self.model.network, self.training_ops, self.model.process, w, dw,
            self._to_device(x_0), t, eps, self.model.condition(labels), dropout, share * weight,
        )  # fmt: skip
        if self.history:
            drawn[1][samples] = self.model.backend.to_numpy(losses)
        return share * float(self.model.backend.xp.mean(weight * losses))

    def _read(self, dataset: Dataset, places: Indices) -> tuple[Any, Any]:
        labels = None if dataset.labels is None else dataset.labels[places]
        x_0 = dataset.read(places)
        return (to_model(x_0) if self.model.is_image else x_0), labels

    def _training_times(self, samples: Indices, drawn: tuple[Indices, HostArray]) -> tuple[Array, float | Array]:
        """Return the times of some of this step's samples and what each counts: uniform and 1, or by the history."""
        if not self.history:
            return self._times(Purpose.TIME, self.step, samples), 1.0
        backend = self.model.backend
        words = self.random.integers(Purpose.TIME, self.step, samples, (), WORDS)
        t, weight = self.history.draw(backend.to_numpy(words))
        drawn[0][samples] = t
        return backend.asarray(t), backend.asarray(weight)

    def _times(self, purpose: Purpose, step: int, samples: Indices) -> Array:
        return self.random.integers(purpose, step, samples, (), self.model.process.T)

    def _noise(self, purpose: Purpose, step: int, samples: Indices) -> Array:
        return self.random.normal(purpose, step, samples, self.model.sample_shape)

    def _to_device(self, x_0: Any) -> Array:
        return self.model.backend.asarray(x_0)

    def _views(self, buffer: Array) -> dict[str, Array]:
        return self.model.layout.views(buffer, self.model.backend.xp)


def plugins_of(config: Config) -> list[dict[str, str]]:
    """Return the registry entries that a model of this configuration needs, as a checkpoint names them."""
    used = {
        "networks": config.network.name,
        "schedules": config.schedule.name,
        "weightings": config.weighting.name,
        "samplers": config.sampling.name,
        "spacings": config.sampling.spacing,
    }
    entries = [registry.find(group, name) for group, name in used.items()]
    return [{key: getattr(entry, key) for key in PLUGIN_KEYS} for entry in entries]
