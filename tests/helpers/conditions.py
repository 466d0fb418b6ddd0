"""Test conditions: an image that is concatenated to x_t, and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from helpers.comparison import HostArray
from tinyddpm.conditions import Given, Wish
from tinyddpm.nn import Gradients, Parts, Told, Weights, Widths
from tinyddpm.nn.layers import Linear, Pass
from tinyddpm.ops import Operations, Saved


@dataclass
class Columns:
    """The columns that the conditions below read."""

    labels: HostArray | None = None
    pictures: HostArray | None = None
    words: HostArray | None = None
    lengths: HostArray | None = None
    columns: Mapping[str, HostArray] = field(default_factory=dict)


class Picture:
    """A condition by images of `channels` channels; its null is an image of zeros."""

    parameters = ()

    def __init__(
        self, sample_shape: tuple[int, ...], classes: int, width: int, null: bool, *, channels: int = 3
    ) -> None:
        self.gives = Widths(image=channels)
        self.null: Mapping[str, HostArray] = {"picture": np.zeros((*sample_shape[:-1], channels))}

    def read(self, known: Columns) -> Mapping[str, HostArray]:
        return {"picture": known.pictures}

    def asked(self, wish: Wish, shown: Columns | None = None) -> Columns:
        return shown or Columns()

    def words(self, known: Columns) -> None:
        pass

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        return Told(image=given["picture"]), None

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        pass


class Words(Parts):
    """A condition by a number of tokens, mapped linearly, and by a vector: the mean of the tokens, mapped linearly."""

    def __init__(self, sample_shape: tuple[int, ...], classes: int, width: int, null: bool) -> None:
        self.gives = Widths(vector=width, tokens=4)
        self.null: Mapping[str, HostArray] = {"words": np.zeros((5, 3)), "length": np.asarray(0)}
        self.map = Linear("words/map", 3, 4)
        self.sum = Linear("words/sum", 4, width)

    def read(self, known: Columns) -> Mapping[str, HostArray]:
        return {"words": known.words, "length": known.lengths}

    def asked(self, wish: Wish, shown: Columns | None = None) -> Columns:
        return shown or Columns()

    def words(self, known: Columns) -> list[str]:
        return [str(words) for words in known.words]

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        run, words = Pass(ops, w), given["words"]
        mask = ops.xp.arange(words.shape[1])[None, :] < given["length"][:, None]
        tokens = self.map.forward(run, words)
        vector = self.sum.forward(run, ops.xp.mean(tokens, axis=1))
        return Told(vector=vector, tokens=tokens, mask=mask), run if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        run: Pass = saved
        run.dw = dw
        dmean = self.sum.backward(run, dtold.vector)
        length = dtold.tokens.shape[1]
        self.map.backward(run, dtold.tokens + dmean[:, None, :] / length)
