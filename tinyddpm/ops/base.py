"""The base class of all families of operations, and views into a flat buffer of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import Any, TypeAlias

from array_api_compat import device

from tinyddpm.backend import Array, Backend

Saved: TypeAlias = Any
"""Residuals that a forward saves for its backward; None without training. Only that backward reads them."""


class Family:
    """A family of operations on one backend: pure functions of their arguments, with explicit residuals.

    Each forward returns `(y, saved)`. Its backward takes `(saved, dy)` and returns one gradient per differentiable
    input, that of x first. Inputs are never written to. An operation computes in the dtype of its input.

    Args:
        backend: supplies the array namespace and the device.
        training: whether forwards return residuals; if False, every `saved` is None.

    Attributes:
        stores: whether the backwards of operations with parameters accept two further arguments: `into`, arrays that
            the gradients of the parameters are written to, and `added`, gradients that reach x along other paths, of
            x's shape and dtype, which are added to dx.
        recompute: whether a network in training saves only the inputs of its blocks and runs each block's forward
            again during the backward, as `tinyddpm.nn.blocks.Chain` does.
    """

    stores = False
    recompute = False

    def __init__(self, backend: Backend, training: bool = False) -> None:
        self.backend = backend
        self.xp = backend.xp
        self.training = training

    def weights(self, buffer: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Return the parameters stored one after the other in a flat buffer, in the form that these operations read.

        Some are views of the buffer, others of copies, so call this again after the buffer has changed. Arrays of more
        than one dimension have the backend's storage dtype.
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
    """Return views of a flat buffer, one per shape, that follow each other from its start to its end."""
    ends = list(accumulate(map(prod, shapes)))
    return [xp.reshape(buffer[end - prod(shape) : end], shape) for end, shape in zip(ends, shapes, strict=True)]
