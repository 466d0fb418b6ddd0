"""What every family of operations shares: the namespace, and whether residuals are kept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import Any, TypeAlias

from array_api_compat import device

from tinyddpm.backend import Array, Backend

Saved: TypeAlias = Any
"""What a forward keeps for its backward; None without training. Only the operation itself looks inside."""


class Family:
    """A family of operations on one backend: pure functions of their arguments, with explicit residuals.

    Each forward returns `(y, saved)`, each backward takes `(saved, dy)` and returns one gradient per differentiable
    input, x's first. Inputs are never written to. An operation computes in the type of its input.

    Args:
        backend: whose namespace computes.
        training: whether `saved` is kept; without it every `saved` is None.

    Attributes:
        stores: whether the backwards of operations with parameters also take what a backend can do while it stores
            their results: `into`, arrays that the gradients of parameters are written to, and `added`, gradients that
            reach x by other ways, of x's shape and type, which are added to dx.
        recompute: whether a network in training keeps only the inputs of its blocks, and runs each block's forward
            again on the way back; see `tinyddpm.nn.blocks.Chain`.
    """

    stores = False
    recompute = False

    def __init__(self, backend: Backend, training: bool = False) -> None:
        self.backend = backend
        self.xp = backend.xp
        self.training = training

    def weights(self, buffer: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Return parameters that lie one after the other in a flat buffer, as these operations read them.

        They are views of it or of copies: who changes the buffer asks again. What has more than one dimension is of the
        backend's storage type.
        """
        exact = cut(self.xp, buffer, shapes)
        if self.backend.precision != "bf16":
            return exact
        stored = cut(self.xp, self.xp.astype(buffer, self.backend.storage), shapes)
        return [e if e.ndim == 1 else s for e, s in zip(exact, stored, strict=True)]

    def _save(self, *residuals: Any) -> Saved:
        return residuals if self.training else None

    def _zeros(self, shape: tuple[int, ...], like: Array) -> Array:
        return self.xp.zeros(shape, dtype=like.dtype, device=device(like))


def cut(xp: Any, buffer: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Return views of these shapes, which follow each other in a flat buffer and fill it."""
    ends = list(accumulate(map(prod, shapes)))
    return [xp.reshape(buffer[end - prod(shape) : end], shape) for end, shape in zip(ends, shapes, strict=True)]
