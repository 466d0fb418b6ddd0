"""The trainer: Algorithm 1 of DDPM with Adam, and its whole state."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from tinyddpm.backend import Array, Purpose
from tinyddpm.backend.workers import parts
from tinyddpm.data.base import Dataset
from tinyddpm.diffusion.times import Law, Uniform, make_law
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.errors import CheckpointError, TrainingError
from tinyddpm.hdf5 import PathLike
from tinyddpm.model.averages import lengths_of, name_of
from tinyddpm.model.checkpoint import Checkpoint, Vector, plugins_of, save_checkpoint
from tinyddpm.model.model import Model
from tinyddpm.model.tables import AUTO
from tinyddpm.ops import Operations, load_operations
from tinyddpm.training.base_step import own_part
from tinyddpm.training.device_step import DeviceStep
from tinyddpm.training.host_step import HostStep, read, workers_of
from tinyddpm.training.rates import Table, rate_at
from tinyddpm.training.state import State
from tinyddpm.training.step import noised, training_losses


@dataclass(frozen=True)
class StepResult:
    """The number of a training step, counted from 1, its loss, the norm of its gradient and its learning rate."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float


def law_of(model: Model) -> Law:
    """Return the law of t that a model's setting `training.times` names, or its objective's own for "auto"."""
    times = model.config.training.times
    return make_law(model.process, model.objective.times if times == AUTO else times, **model.config.times.options)


class Trainer:
    """The state of a training run: weights, averages, Adam's moments, the memory of the law of t, the number of steps.

    Every random choice of step k is a function of (seed, k). So this state and the configuration are enough to continue
    a stopped run as if it had never stopped.

    Args:
        model: the model to train.
        train: the samples to learn from.
        held_out: the samples of the validation loss.
        ops: the operations of training steps; the backend's own if None.
        group: the ranks that train together. All ranks call each method at the same time.
    """

    def __init__(
        self, model: Model, train: Dataset, held_out: Dataset, ops: Operations | None = None, group: Group = ALONE
    ) -> None:
        self.model, self.train, self.held_out, self.group = model, train, held_out, group
        self.config = model.config
        self.ops = ops or load_operations(model.backend, training=True, recompute=self.config.training.recompute)
        self.law = law_of(model)
        self.columns = model.columns(held_out)
        self.step = 0
        self._part = own_part(model, group)
        initial = self.initial()
        own = initial[self._part]
        self.averaged = tuple(map(name_of, lengths_of(self.config.training.average_lengths)))
        buffers = initial, own.copy(), np.zeros_like(own), np.zeros_like(own)
        with model.backend.scope():
            weights, ema, m, v = map(model.backend.asarray, buffers)
            averages = tuple(model.backend.asarray(own.copy()) for _ in self.averaged)
            self.state = State(weights, ema, m, v, averages)
            # A recorded step draws uniform times on the device; times of other laws are drawn on the host.
            self.advance: HostStep | DeviceStep = (
                DeviceStep(model, train, self.state, self.ops, group)
                if model.backend.graphs and type(self.law) is Uniform
                else HostStep(model, train, self.state, self.ops, self.law, group)
            )

    def initial(self) -> Vector:
        """Return the flat weights that the seed draws, (n,) float32."""
        return self.model.layout.initialise(self.config.seed)

    def begin_with(self, weights: Vector) -> None:
        """Set the flat weights, (n,) float32, before the first step; the averages start at them too."""
        backend = self.model.backend
        with backend.scope():
            backend.upload(self.state.weights, weights)
            for average in (self.state.ema, *self.state.averages):
                backend.upload(average, weights[self._part])

    def train_step(self) -> StepResult:
        """Do one step of Algorithm 1 and return its result.

        Raises:
            TrainingError: the loss or the gradient is not finite. The state is that of the step before.
            SumLostError: another rank failed during the step, which leaves the state half updated.
        """
        step = self.step
        with self.model.backend.scope():
            loss, norm = self.advance(step)
        self.group.check()
        if not (isfinite(loss) and isfinite(norm)):
            raise TrainingError(f"the loss of step {step + 1} is {loss:g} and its gradient's norm {norm:g}")
        self.step += 1
        return StepResult(self.step, loss, norm, rate_at(self.learning_rates, step))

    def validation_loss(self) -> float:
        """Return the loss of the averaged weights on the held-out samples, at uniform times.

        Each sample has the same time and noise at every validation.
        """
        n, model = len(self.held_out), self.model
        ops, random = load_operations(model.backend), model.backend.random(self.config.seed)

        def share_of_loss(part: slice) -> float:
            samples = np.arange(n)[part]
            x_0 = read(model, self.held_out, samples)
            t = random.integers(Purpose.VALIDATION_TIME, 0, samples, (), model.process.T)
            eps = random.normal(Purpose.VALIDATION_NOISE, 0, samples, model.sample_shape)
            batch = noised(model.process, model.backend.asarray(x_0), t, eps)
            given = model.observed(model.given(self.columns, part), batch.x_0)
            losses = training_losses(model.objective, model.network, ops, w, batch, given)
            return float(ops.xp.mean(losses)) * len(samples) / n

        with model.backend.scope():
            w = model.weights(self.ema, ops)
            count = self.group.size * workers_of(model, self.group) * -(-n // self.config.training.batch_size)
            cut = parts(n, count)
            own = model.workers.map(share_of_loss, cut[self.group.rank :: self.group.size])
            return self.group.total(sum(own))

    def checkpoint(self, state: dict[str, Any]) -> Checkpoint:
        """Return the whole state of the training, and `state`, the caller's own, as a checkpoint."""
        return Checkpoint(
            config=self.config.to_dict(),
            step=self.step,
            sample_shape=self.model.sample_shape,
            classes=self.model.classes,
            plugins=plugins_of(self.config),
            weights=self.model.backend.to_numpy(self.state.weights),
            ema=self._whole(self.state.ema),
            adam_m=self._whole(self.state.m),
            adam_v=self._whole(self.state.v),
            averages=self.averages(),
            history=self.law.packed(),
            state=state,
        )

    def averages(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the power-function averages by the names of their lengths, each flat and whole on every rank."""
        return {name: self._whole(own) for name, own in zip(self.averaged, self.state.averages, strict=True)}

    def save(self, path: PathLike, state: dict[str, Any]) -> None:
        """Write `checkpoint(state)` to `path`; only the first rank writes.

        Raises:
            CheckpointError: the file cannot be written, or a value is NaN or infinite.
        """
        layout = [(parameter.path, parameter.shape) for parameter in self.model.layout.parameters]
        checkpoint = self.checkpoint(state)
        if self.group.first:
            save_checkpoint(path, checkpoint, layout)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Set the state to that of `checkpoint`.

        Raises:
            CheckpointError: the checkpoint lacks the memory of the law of t, or an average.
        """
        remembered = self.law.packed()
        if remembered is not None:
            if checkpoint.history is None or checkpoint.history.shape != remembered.shape:
                raise CheckpointError("the checkpoint lacks the losses that times are drawn after: train anew")
            self.law.unpack(checkpoint.history)
        if tuple(checkpoint.averages) != self.averaged:
            raise CheckpointError("the checkpoint lacks averages of the lengths that the settings name: train anew")
        self.step = checkpoint.step
        ema, m, v = checkpoint.ema, checkpoint.adam_m, checkpoint.adam_v
        assert m is not None
        assert v is not None
        kept = checkpoint.weights, *(vector[self._part] for vector in (ema, m, v, *checkpoint.averages.values()))
        with self.model.backend.scope():
            for buffer, values in zip(self.state.buffers, kept, strict=True):
                self.model.backend.upload(buffer, values)

    @property
    def learning_rates(self) -> Table:
        """The learning rate of each step, (steps,)."""
        return self.advance.learning_rates

    @property
    def weights(self) -> Array:
        """The flat weights on the device."""
        return self.state.weights

    @property
    def ema(self) -> Array:
        """The running average of the weights, on the device, flat and whole on every rank."""
        return self.state.ema if not self.config.training.shard else self._gathered(self.state.ema)

    def _gathered(self, own: Array) -> Array:
        """Return the whole of a buffer of which each rank has its own part."""
        xp, backend = self.model.backend.xp, self.model.backend
        with backend.scope():
            whole = xp.empty((self.model.layout.size,), dtype=own.dtype, device=backend.device)
            whole[self._part] = own
            self.group.gather_parts(whole)
        return whole

    def _whole(self, own: Array) -> np.ndarray[Any, Any]:
        """Return a whole buffer on the host, gathered from all ranks if they keep shards."""
        host = self.model.backend.to_numpy(self._gathered(own) if self.config.training.shard else own)
        self.group.check()
        return host
