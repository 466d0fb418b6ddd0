"""What a training run changes at every step, each a flat float32 buffer in the layout of the parameters."""

from __future__ import annotations

from typing import NamedTuple

from tinyddpm.backend import Array


class State(NamedTuple):
    """The weights, their running average, and Adam's two moments."""

    weights: Array
    ema: Array
    m: Array
    v: Array
