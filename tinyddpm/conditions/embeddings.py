"""Precomputed embeddings as a condition: tokens that another project's encoder made, projected for the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from array_api_compat import device

from tinyddpm.conditions.base import Asked, Given, HostArray, Known, Wish, refuse_others
from tinyddpm.errors import ConfigError
from tinyddpm.nn import Gradients, Parts, Told, Weights, Widths
from tinyddpm.nn.layers import Linear, Pass
from tinyddpm.nn.network import WIDEST
from tinyddpm.ops import Operations, Saved

TOKENS, LENGTH = "tokens", "length"
"""The columns: (n, L, D) tokens of each sample, and, if some samples have padding, the number of its tokens, (n,)."""


class Embeddings(Parts):
    """A condition on tokens: a linear map of each token, and as a vector a linear map of their mean.

    The tokens stand for whatever the encoder read, such as a text (LDM, section 3.3, with its τ frozen). The null is a
    sample without tokens.

    Args:
        sample_shape: unused.
        classes: unused.
        width: width of the vector.
        null: whether the model is trained with the null.
        token_width: width of a token for the network.
        length: largest number of tokens of a sample; learned, see `learned`.
        size: width of the encoder's tokens; learned too.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        classes: int,
        width: int,
        null: bool,
        *,
        token_width: int = 128,
        length: int = 1,
        size: int = 1,
    ) -> None:
        for name, value in (("token_width", token_width), ("length", length), ("size", size)):
            if not 1 <= value <= WIDEST:
                raise ConfigError(f"condition.{name} is {value}: it must be at least 1 and at most {WIDEST}")
        self.knows_null, self.length, self.size = null, length, size
        self.gives = Widths(vector=width, tokens=token_width)
        self.null: Mapping[str, HostArray] = {
            TOKENS: np.zeros((length, size), np.float32),
            LENGTH: np.asarray(0, np.int64),
        }
        self.project = Linear("embeddings/project", size, token_width)
        self.vector = Linear("embeddings/vector", token_width, width)

    @staticmethod
    def learned(known: Known, **options: Any) -> Mapping[str, Any]:
        """Return the options with `length` and `size` of the data's tokens.

        Raises:
            ConfigError: the data have no tokens.
        """
        _, length, size = _tokens(known).shape
        return {"length": length, "size": size, **options}

    def read(self, known: Known) -> Mapping[str, HostArray]:
        """Return `tokens`, (n, length, size) float32 with padding, and `length`, the number of tokens, (n,) int64.

        Raises:
            ConfigError: there are no tokens, too many, or some of another size.
        """
        tokens = np.asarray(_tokens(known), np.float32)
        n, length, size = tokens.shape
        if size != self.size or length > self.length:
            raise ConfigError(
                f"the tokens are {length} of size {size} for a sample, and the model reads up to {self.length} of size "
                f"{self.size}: make them by the encoder that it was trained with"
            )
        there = np.asarray(known.columns.get(LENGTH, np.full(n, length)), np.int64)
        return {TOKENS: np.pad(tokens, ((0, 0), (0, self.length - length), (0, 0))), LENGTH: there}

    def asked(self, wish: Wish, shown: Known | None = None) -> Asked:
        """Return the embeddings of the wish, or else those of the samples shown, or else the null.

        Raises:
            ConfigError: the wish has another part, or is empty and the model was trained without the null.
        """
        refuse_others(wish, "embeddings")
        if wish.embeddings is not None:
            return Asked(None, wish.embeddings)
        if shown is not None:
            return Asked(None, {name: shown.columns[name] for name in (TOKENS, LENGTH) if name in shown.columns})
        if not self.knows_null:
            raise ConfigError(
                "the model draws from embeddings: give --embeddings, or train one with --condition-dropout 0.1"
            )
        return Asked(None, {name: value[None, ...] for name, value in self.null.items()})

    def words(self, known: Known) -> None:
        """Return None: there are no texts."""

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        """Return a vector and (N, length, token_width) tokens, with a mask that is False for padding."""
        run, xp = Pass(ops, w), ops.xp
        x = xp.astype(given[TOKENS], w[self.project.paths[0]].dtype, copy=False)
        places = xp.arange(self.length, dtype=xp.int64, device=device(x))
        there = places[None, :] < given[LENGTH][:, None]
        run.told["share"] = self._shares(run, there, like=x)
        tokens = self.project.forward(run, xp.where(there[:, :, None], x, xp.zeros_like(x)))
        mean = xp.sum(tokens * run.told["share"], axis=1, dtype=tokens.dtype)
        vector = self.vector.forward(run, mean)
        return Told(vector=vector, tokens=tokens, mask=there), run if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        """Add the gradients of the parameters to `dw`; tokens have none."""
        run: Pass = saved
        run.dw = dw
        dmean = self.vector.backward(run, dtold.vector)
        self.project.backward(run, dtold.tokens + dmean[:, None, :] * run.told["share"])

    def _shares(self, run: Pass, there: Any, like: Any) -> Any:
        """Return the weight of each token in the mean of a sample's tokens, (N, length, 1); 0 for padding."""
        xp = run.ops.xp
        weights = xp.astype(there, like.dtype)[:, :, None]
        count = xp.sum(weights, axis=1, keepdims=True, dtype=like.dtype)
        return weights / xp.maximum(count, xp.ones_like(count))


def _tokens(known: Known) -> HostArray:
    if TOKENS not in known.columns:
        raise ConfigError("there are no tokens: give data with a column of tokens, or give them with --embeddings")
    return known.columns[TOKENS]
