"""A training step led by the host, which cuts the batch over its threads: Algorithm 1 of DDPM, then Adam."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.backend.workers import parts
from tinyddpm.data.base import Dataset
from tinyddpm.data.batching import batch_indices
from tinyddpm.diffusion.times import Law
from tinyddpm.model.model import Model
from tinyddpm.nn import DropoutNoise
from tinyddpm.nn.parameters import ZeroGradients
from tinyddpm.ops import Operations
from tinyddpm.ops.images import to_model
from tinyddpm.ops.optimisation import Factor
from tinyddpm.training.state import State
from tinyddpm.training.step import descent, training_gradient

LEAST_PER_WORKER = 4
"""Samples below which a thread of its own does not pay."""

PARAMETERS_PER_SAMPLE = 1_000_000
"""Parameters for each sample of a thread above which threads had better share operations: what is done with weights is
then done once, and not in each thread."""

HostArray = np.ndarray[Any, Any]
Indices = np.ndarray[Any, np.dtype[np.int64]]


class HostStep:
    """A training step on the host. It is called with the number of the step, 0-based.

    Args:
        model: what is trained.
        train: the samples to learn from.
        state: changed in place.
        ops: operations that keep residuals.
        law: draws the times, and hears their losses.
    """

    def __init__(self, model: Model, train: Dataset, state: State, ops: Operations, law: Law) -> None:
        self.model, self.train, self.state, self.ops, self.law = model, train, state, ops, law
        self.config = model.config
        self.random = model.backend.random(self.config.seed)
        self.columns = model.columns(train)
        self.descent = descent(self.config.training)
        # One gradient for each worker, summed in order: no worker waits for another, and no sum depends on timing.
        size, asarray = model.layout.size, model.backend.asarray
        self.gradients: list[Array] = [asarray(np.zeros(size, np.float32)) for _ in range(workers_of(model))]
        self._blocks = model.backend.blocks(model.layout.size)

    def __call__(self, step: int) -> tuple[float, float]:
        """Do one step and return its loss and the gradient's norm; where one is not finite, nothing is changed."""
        ops, backend = self.ops, self.model.backend
        loss, lengths, heard = self.batch_gradient(step)
        numbers = backend.asarray(np.asarray([step])), backend.asarray(np.asarray([loss], np.float32))
        factors = ops.step_factors(self.descent, *numbers, lengths)

        def update(block: slice) -> None:
            ops.adam(self.descent, factors, self.gradients[0][block], *(buffer[block] for buffer in self.state))

        self.model.workers.map(update, self._blocks)
        norm = float(backend.to_numpy(factors)[Factor.NORM])
        if isfinite(loss) and isfinite(norm):
            self.law.hear(*heard)
        return loss, norm

    def batch_gradient(self, step: int) -> tuple[float, Array, tuple[Array, Array]]:
        """Return the loss of the step's batch and the lengths of its gradient, which is left in the first buffer.

        The batch is cut over the workers, and again for accumulation. The times of all samples and their losses come
        third.
        """
        batch_size, workers = self.config.training.batch_size, len(self.gradients)
        layout, xp = self.model.layout, self.model.backend.xp
        w = self.model.weights(self.state.weights, self.ops)
        slots = np.arange(batch_size)
        cut = parts(batch_size, workers * self.config.training.accumulate)
        heard: dict[int, tuple[Array, Array]] = {}

        def work(worker: int) -> float:
            """Return one worker's share of the loss; its gradient is left in its buffer."""
            gradient = self.gradients[worker]
            gradient[...] = 0.0
            dw = ZeroGradients(layout.views(gradient, xp))
            loss = 0.0
            for number in range(worker, len(cut), workers):
                share, t, losses = self._part_gradient(step, w, dw, slots[cut[number]])
                heard[number] = t, losses
                loss += share
            return loss

        losses = self.model.workers.map(work, range(workers))
        t, each = (xp.concat(parts) for parts in zip(*(heard[number] for number in range(len(cut))), strict=True))
        total, *others = self.gradients

        def lengths_of_sum(block: slice) -> Array:
            gradient = total[block]
            for other in others:
                gradient += other[block]
            return self.ops.lengths(gradient)

        lengths = xp.concat(self.model.workers.map(lengths_of_sum, self._blocks))
        return sum(losses), lengths, (t, each)

    def _part_gradient(self, step: int, w: Any, dw: dict[str, Array], samples: Indices) -> tuple[float, Array, Array]:
        """Add to `dw` what some of the batch's samples, named by their places in it, add to its gradient.

        Returned are what they add to its loss, their times, and their losses.
        """
        model, training, config = self.model, self.config.training, self.config
        share = len(samples) / training.batch_size
        places = batch_indices(len(self.train), training.batch_size, step, config.seed)[samples]
        data = model.backend.asarray(self.train.read(places))
        t, weight = self.law.draw(self.random, step, samples)
        batch = self.ops.noised(self.random, step, samples, data, model.process.levels, t=t, flip=config.data.flip)
        given = model.in_training(model.given(self.columns, places), batch.x_0, self.random, step, samples)
        losses = training_gradient(
            model.objective, model.network, self.ops, w, dw, batch, given,
            DropoutNoise(self.random, step, samples), share * weight,
        )  # fmt: skip
        return share * float(model.backend.xp.mean(weight * losses)), t, losses


def workers_of(model: Model) -> int:
    """Return how many threads share a batch: as many as the model has, if it is large enough for them."""
    batch_size, threads = model.config.training.batch_size, model.workers.threads
    if model.backend.spreads and model.layout.size * threads > PARAMETERS_PER_SAMPLE * batch_size:
        return 1
    return min(threads, max(1, batch_size // LEAST_PER_WORKER))


def read(model: Model, dataset: Dataset, places: Indices) -> HostArray:
    """Return the samples at `places` as the network sees them."""
    x_0 = dataset.read(places)
    return to_model(x_0) if model.is_image else x_0
