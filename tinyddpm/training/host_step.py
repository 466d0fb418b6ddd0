"""A training step on the host, which divides the batch among threads: Algorithm 1 of DDPM, then Adam."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np

from tinyddpm.backend import Array, Backend
from tinyddpm.backend.workers import parts
from tinyddpm.data.base import Dataset
from tinyddpm.data.batching import class_weights
from tinyddpm.diffusion.times import Law
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.model.model import Model
from tinyddpm.nn import DropoutNoise
from tinyddpm.nn.parameters import ZeroGradients
from tinyddpm.ops import Operations
from tinyddpm.ops.images import to_model
from tinyddpm.ops.optimisation import Factor
from tinyddpm.training.base_step import TrainingStep
from tinyddpm.training.rates import rate_at
from tinyddpm.training.state import State
from tinyddpm.training.step import drawn, training_gradient

LEAST_PER_WORKER = 4
"""Fewest samples for which a thread of its own pays."""

PARAMETERS_PER_SAMPLE = 1_000_000
"""Number of parameters per sample of a thread above which threads share each operation instead of the batch.

Work that depends on the weights alone is then done once, not in every thread.
"""

HostArray = np.ndarray[Any, Any]
Indices = np.ndarray[Any, np.dtype[np.int64]]


class HostStep(TrainingStep):
    """A training step on the host, called with the number of the step, 0-based.

    Args:
        model: the model to train.
        train: the samples to learn from.
        state: the buffers that each step changes in place.
        ops: operations that keep residuals.
        law: draws the times and is told their losses.
        group: the ranks that share each batch.
    """

    def __init__(
        self, model: Model, train: Dataset, state: State, ops: Operations, law: Law, group: Group = ALONE
    ) -> None:
        super().__init__(model, train, state, ops, group)
        self.law = law
        self.class_weights = class_weights(train, self.config.data.balance)
        self.columns = model.columns(train)
        # Each worker has a gradient of its own; they are summed in order, so that no sum depends on timing.
        size, asarray = model.layout.size, model.backend.asarray
        self.gradients: list[Array] = [asarray(np.zeros(size, np.float32)) for _ in range(workers_of(model, group))]
        self._blocks = model.backend.blocks(self.part.stop - self.part.start)

    def __call__(self, step: int) -> tuple[float, float]:
        """Do one step; return its loss and its gradient's norm. If one is not finite, the state stays as it was."""
        backend = self.model.backend
        loss, lengths, heard = self.batch_gradient(step)
        rate = backend.asarray(np.asarray([rate_at(self.learning_rates, step)]))
        number, loss_there = backend.asarray(np.asarray([step])), backend.asarray(np.asarray([loss], np.float32))
        factors = self.factors(number, rate, loss_there, lengths)
        total = self.gradients[0]
        self.model.workers.map(lambda block: self.update(number, rate, factors, total, block), self._blocks)
        if self.config.training.shard:
            self.group.gather_parts(self.state.weights)
        norm = float(backend.to_numpy(factors)[Factor.NORM])
        if isfinite(loss) and isfinite(norm):
            self.law.hear(*heard)
        return loss, norm

    def batch_gradient(self, step: int) -> tuple[float, Array, tuple[Array, Array]]:
        """Compute the gradient of the step's batch in `gradients[0]`.

        The batch is divided among the workers of all ranks, and each worker's part again for accumulation.

        Returns:
            The loss; the Euclidean lengths of the gradient's blocks, (k,); the times and the losses of the samples.
        """
        batch_size, workers, group = self.config.training.batch_size, len(self.gradients), self.group
        layout, xp = self.model.layout, self.model.backend.xp
        w = self.model.weights(self.state.weights, self.ops)
        slots = np.arange(batch_size)
        cut = parts(batch_size, group.size * workers * self.config.training.accumulate)
        heard: dict[int, tuple[Array, Array]] = {}

        def work(worker: int) -> float:
            """Return one worker's share of the loss, and leave its gradient in its own buffer."""
            gradient = self.gradients[worker]
            gradient[...] = 0.0
            dw = ZeroGradients(layout.views(gradient, xp))
            loss = 0.0
            for number in range(worker * group.size + group.rank, len(cut), group.size * workers):
                share, t, losses = self._part_gradient(step, w, dw, slots[cut[number]])
                heard[number] = t, losses
                loss += share
            return loss

        loss = group.total(sum(self.model.workers.map(work, range(workers))))
        return loss, self._summed(), self._joined(heard)

    def _summed(self) -> Array:
        """Sum all gradients into the first buffer, and return the lengths of the sum's blocks, (k,)."""
        total, *others = self.gradients
        training, group, xp, backend = self.config.training, self.group, self.model.backend.xp, self.model.backend

        def sum_of(block: slice) -> Array:
            gradient = total[block]
            for other in others:
                gradient += other[block]
            return gradient

        if group.size == 1:
            return xp.concat(self.model.workers.map(lambda block: self.ops.lengths(sum_of(block)), self._blocks))
        self.model.workers.map(sum_of, backend.blocks(self.model.layout.size))
        (group.sum_part if training.shard else group.sum_)(total, training.sums)
        gradient = total[self.part]
        lengths = xp.concat(self.model.workers.map(lambda block: self.ops.lengths(gradient[block]), self._blocks))
        return lengths if not training.shard else _concatenated(group, backend, lengths)

    def _joined(self, heard: dict[int, tuple[Array, Array]]) -> tuple[Array, Array]:
        """Return times and losses in the order of the samples: the whole batch's if the law of t has a memory.

        For a law without memory they stay those of this rank's samples, and ranks exchange nothing.
        """
        backend = self.model.backend
        if self.group.size > 1 and self.law.packed() is not None:
            ours = {number: tuple(map(backend.to_numpy, pair)) for number, pair in heard.items()}
            heard = {
                number: (backend.asarray(t), backend.asarray(losses))
                for theirs in self.group.gather(ours)
                for number, (t, losses) in theirs.items()
            }
        t, each = (backend.xp.concat(parts) for parts in zip(*(heard[number] for number in sorted(heard)), strict=True))
        return t, each

    def _part_gradient(self, step: int, w: Any, dw: dict[str, Array], samples: Indices) -> tuple[float, Array, Array]:
        """Add the contribution of some samples to the batch's gradient to `dw`.

        Args:
            step: the number of the step, 0-based.
            w: parameters by path.
            dw: gradients by path.
            samples: (n,) the samples' slots in the batch.

        Returns:
            Their contribution to the batch's loss; their times, (n,); their losses, (n,).
        """
        model, training = self.model, self.config.training
        share = len(samples) / training.batch_size
        places = self.order(step)[samples]
        data = model.backend.asarray(self.train.read(places))
        t, weight = self.law.draw(self.random, step, samples)
        if self.class_weights is not None:
            weight = weight * model.backend.asarray(self.class_weights[places])
        batch, done = drawn(model, self.transforms, self.ops, self.random, step, samples, data, t=t)
        given = model.in_training(model.given(self.columns, places), batch.x_0, self.random, step, samples, done)
        losses = training_gradient(
            model.objective, model.network, self.ops, w, dw, batch, given,
            DropoutNoise(self.random, step, samples), share * weight,
        )  # fmt: skip
        return share * float(model.backend.xp.mean(weight * losses)), t, losses


def workers_of(model: Model, group: Group = ALONE) -> int:
    """Return the number of threads among which a rank's part of a batch is divided.

    One where a thread would have too few samples for the number of parameters and operations can share threads instead;
    otherwise as many of the model's threads as have `LEAST_PER_WORKER` samples each.
    """
    batch_size, threads = model.config.training.batch_size // group.size, model.workers.threads
    if model.backend.spreads and model.layout.size * threads > PARAMETERS_PER_SAMPLE * batch_size:
        return 1
    return min(threads, max(1, batch_size // LEAST_PER_WORKER))


def _concatenated(group: Group, backend: Backend, array: Array) -> Array:
    """Return the arrays of all ranks, concatenated in the order of the ranks."""
    return backend.asarray(np.concatenate(group.gather(backend.to_numpy(array))))


def read(model: Model, dataset: Dataset, places: Indices) -> HostArray:
    """Return the samples at `places` as float32 on the host: images scaled to [−1, 1], points as they are."""
    x_0 = dataset.read(places)
    return to_model(x_0) if model.is_image else x_0
