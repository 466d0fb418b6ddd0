"""A training step that runs on the device alone and can be recorded as one graph: Algorithm 1 of DDPM, then Adam.

The host sends one small array per step: the step's number and the indices of its samples in the data set. From the
number the device draws times, noise, transforms and dropout, and looks up the learning rate. It returns the loss and
the norm of the gradient.
"""

from __future__ import annotations

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.backend.captured import Arrays, Function
from tinyddpm.backend.workers import parts
from tinyddpm.conditions import Given
from tinyddpm.data.base import Dataset
from tinyddpm.data.batching import class_weights
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.model.model import Model
from tinyddpm.nn import DropoutNoise
from tinyddpm.nn.parameters import ZeroGradients
from tinyddpm.ops import Operations
from tinyddpm.ops.optimisation import Factor
from tinyddpm.training.base_step import TrainingStep
from tinyddpm.training.feed import Feed, make_feed
from tinyddpm.training.pieces import Pieces, WatchedGradients
from tinyddpm.training.state import State
from tinyddpm.training.step import drawn, training_gradient


class DeviceStep(TrainingStep):
    """A training step on the device, called with the number of the step, 0-based. Its times are uniform.

    Args:
        model: the model to train, on a backend that has `graphs`.
        train: the samples to learn from.
        state: the buffers that each step changes in place.
        ops: operations that keep residuals.
        group: the ranks that share each batch.
    """

    def __init__(self, model: Model, train: Dataset, state: State, ops: Operations, group: Group = ALONE) -> None:
        super().__init__(model, train, state, ops, group)
        backend, training = model.backend, self.config.training
        self.own = group.parts(training.batch_size)[group.rank]
        self.feed: Feed = make_feed(backend, train, self.order, self.own)
        weights = class_weights(train, self.config.data.balance)
        self.class_weights = None if weights is None else backend.asarray(weights)
        self.columns = {name: backend.asarray(column) for name, column in model.columns(train).items()}
        slots = np.arange(training.batch_size)[self.own]
        self.slots, self.rows = backend.asarray(slots), backend.asarray(slots - self.own.start)
        self.gradient = backend.asarray(np.zeros(model.layout.size, np.float32))
        self.rates = backend.asarray(self.learning_rates)
        self.last = backend.asarray(np.asarray([len(self.learning_rates) - 1]))
        self.pieces = Pieces(model.layout) if group.size > 1 and group.recordable and not training.shard else None
        # The whole step is recorded, or, if the sums over ranks cannot be, the three parts between them.
        between = backend.captured if not group.recordable else _as_it_is
        self._gradient, self._lengths = between(self._gradient_of), between(self._lengths_of_part)
        self._descend = between(self._updated)
        self._advance = backend.captured(self._step) if group.recordable else self._step

    def __call__(self, step: int) -> tuple[float, float]:
        """Do one step; return its loss and its gradient's norm. If one is not finite, the state stays as it was."""
        backend = self.model.backend
        places = self.order(step)[self.own]
        self.feed.load(step)
        (factors,) = self._advance(backend.asarray(np.concatenate([[step], places])))
        found = backend.to_numpy(factors)
        return float(found[Factor.LOSS]), float(found[Factor.NORM])

    def _step(self, now: Array) -> Arrays:
        """Do the step described by `now`, (1 + n,) int64: its number, then the indices of this rank's n samples.

        Returns:
            The factors of the update; see `Factor`.
        """
        group, shard = self.group, self.config.training.shard
        (loss,) = self._gradient(now)
        if group.size > 1:
            group.sum_(loss)
        if group.size > 1 and not self.pieces:
            (group.sum_part if shard else group.sum_)(self.gradient, self.config.training.sums)
        (lengths,) = self._lengths()
        if shard:
            squares = self.model.backend.xp.sum(lengths**2, keepdims=True)
            group.sum_(squares)
            lengths = squares**0.5
        (factors,) = self._descend(now, loss, lengths)
        if shard:
            group.gather_parts(self.state.weights)
        return (factors,)

    def _gradient_of(self, now: Array) -> Arrays:
        """Return this rank's contribution to the loss, (1,), and leave its contribution to the gradient in `gradient`.

        With `pieces`, that is already the sum over all ranks: the sum of a piece begins when the piece is complete.
        """
        model, training, xp = self.model, self.config.training, self.model.backend.xp
        step, places = now[:1], now[1:]
        self.gradient[...] = 0.0
        w = model.weights(self.state.weights, self.ops)
        views = model.layout.views(self.gradient, xp)
        join = model.backend.join
        dw = self.pieces.watched(views, join, self._begin_sum) if self.pieces else ZeroGradients(views, join)
        loss = xp.zeros((1,), dtype=xp.float32, device=model.backend.device)
        for part in parts(places.shape[0], training.accumulate):
            slots, rows = self.slots[part], (places if self.feed.whole else self.rows)[part]
            batch, done = drawn(model, self.transforms, self.ops, self.random, step, slots, self.feed.data, rows)
            given: Given = {name: xp.take(column, places[part], axis=0) for name, column in self.columns.items()}
            given = model.in_training(given, batch.x_0, self.random, step, slots, done)
            share = (part.stop - part.start) / training.batch_size
            weight = None if self.class_weights is None else xp.take(self.class_weights, places[part], axis=0)
            losses = training_gradient(
                model.objective, model.network, self.ops, w, dw, batch, given,
                DropoutNoise(self.random, step, slots), share if weight is None else share * weight,
            )  # fmt: skip
            loss = loss + share * xp.mean(losses if weight is None else weight * losses)
        join()
        if isinstance(dw, WatchedGradients):
            dw.close()
            self.group.end_sums()
        return (loss,)

    def _begin_sum(self, piece: slice) -> None:
        self.model.backend.join()
        self.group.begin_sum(self.gradient, piece, self.config.training.sums)

    def _lengths_of_part(self) -> Arrays:
        return (self.ops.lengths(self.gradient[self.part]),)

    def _updated(self, now: Array, loss: Array, lengths: Array) -> Arrays:
        """Update the state and return the factors of the update, see `Factor`."""
        xp, step = self.model.backend.xp, now[:1]
        rate = xp.take(self.rates, xp.minimum(step, self.last))
        factors = self.factors(step, rate, loss, lengths)
        self.update(step, rate, factors, self.gradient)
        return (factors,)


def _as_it_is(function: Function) -> Function:
    return function
