"""What a training run changes at every step, each a flat float32 buffer in the layout of the parameters."""

from __future__ import annotations

from typing import NamedTuple

from tinyddpm.backend import Array


class State(NamedTuple):
    """The weights, their running average, Adam's two moments, and what else is averaged of the weights."""

    weights: Array
    ema: Array
    m: Array
    v: Array
    averages: tuple[Array, ...]

    @property
    def buffers(self) -> tuple[Array, ...]:
        """All of them, one after the other."""
        return (self.weights, self.ema, self.m, self.v, *self.averages)
