"""The buffers that every training step updates: flat float32 vectors in the layout of the parameters."""

from __future__ import annotations

from typing import NamedTuple

from tinyddpm.backend import Array


class State(NamedTuple):
    """The weights, their running average, Adam's two moments, and the power-function averages of the weights.

    With `training.shard` a rank holds all weights, but only its own part of the other buffers.
    """

    weights: Array
    ema: Array
    m: Array
    v: Array
    averages: tuple[Array, ...]

    @property
    def buffers(self) -> tuple[Array, ...]:
        """All buffers, in the order of the fields."""
        return (self.weights, self.ema, self.m, self.v, *self.averages)
