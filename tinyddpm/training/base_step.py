"""What a training step on the host and one on the device share: the samples of each batch and the update by Adam."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.data.base import Dataset
from tinyddpm.data.batching import make_order
from tinyddpm.distributed.group import Group
from tinyddpm.model.averages import exponent_of, lengths_of
from tinyddpm.model.model import Model
from tinyddpm.ops import Operations
from tinyddpm.ops.optimisation import Descent
from tinyddpm.training.rates import learning_rates
from tinyddpm.training.state import State


class TrainingStep:
    """Base of `HostStep` and `DeviceStep`: it orders the batches and updates the state; they compute the gradient.

    Args:
        model: the model to train.
        train: the samples to learn from.
        state: the buffers that each step changes in place.
        ops: operations that keep residuals.
        group: the ranks that share each batch.

    Attributes:
        order: gives the indices of a step's samples in the data set, (batch_size,) int64.
        part: the part of the flat buffers that this rank updates.
        learning_rates: the learning rate of each step, (steps,) float64.
    """

    def __init__(self, model: Model, train: Dataset, state: State, ops: Operations, group: Group) -> None:
        self.model, self.train, self.state, self.ops, self.group = model, train, state, ops, group
        self.config, self.transforms = model.config, model.transforms
        training, seed = self.config.training, self.config.seed
        self.random = model.backend.random(seed)
        self.order = make_order(train, training.batch_size, seed, self.config.data.balance)
        self.part = own_part(model, group)
        self.learning_rates = learning_rates(self.config)
        self._descent = Descent(training.clip, training.ema, training.weight_decay)
        self._exponents = tuple(map(exponent_of, lengths_of(training.average_lengths)))
        self._matrices = model.backend.asarray(matrices(model)[self.part]) if training.weight_decay else None

    def factors(self, step: Array, rate: Array, loss: Array, lengths: Array) -> Array:
        """Return the numbers that the update of a step depends on; see `Optimisation.step_factors`."""
        return self.ops.step_factors(self._descent, step, rate, loss, lengths)

    def update(self, step: Array, rate: Array, factors: Array, gradient: Array, block: slice = slice(None)) -> None:
        """Apply weight decay, Adam and the averages to this rank's part of the state, or to a block of that part.

        Args:
            step: (1,) int64, 0-based.
            rate: (1,) float64, the learning rate of the step.
            factors: the result of `factors` for this step.
            gradient: the whole flat gradient, (n,); not changed.
            block: the elements of the part to update.
        """
        ops, (weights, ema, m, v, averages) = self.ops, self.state
        gradient, weights = gradient[self.part][block], weights[self.part][block]
        if self._matrices is not None:
            ops.decay(self._descent, factors, rate, self._matrices[block], weights)
        ops.adam(self._descent, factors, gradient, weights, ema[block], m[block], v[block])
        for exponent, average in zip(self._exponents, averages, strict=True):
            ops.power_average(exponent, step, factors, weights, average[block])


def own_part(model: Model, group: Group) -> slice:
    """Return the part of the flat buffers that a rank updates: its shard where ranks keep shards, else everything."""
    size = model.layout.size
    return group.parts(size)[group.rank] if model.config.training.shard else slice(0, size)


def matrices(model: Model) -> np.ndarray[Any, Any]:
    """Return a mask of the weights that belong to matrices, (n,) float32: 0 for biases and for the scales of norms."""
    parameters = model.layout.parameters
    return np.concatenate([np.full(prod(p.shape), len(p.shape) > 1, np.float32) for p in parameters])
