"""What every family of operations shares: the namespace, and whether residuals are kept."""

from __future__ import annotations

from typing import Any, TypeAlias

from array_api_compat import device

from tinyddpm.backend import Array, Backend

Saved: TypeAlias = Any
"""What a forward keeps for its backward; None without training. Only the operation itself looks inside."""


class Family:
    """A family of operations on one backend: pure functions of their arguments, with explicit residuals.

    Each forward returns `(y, saved)`, each backward takes `(saved, dy)` and returns one gradient per differentiable
    input. Inputs are never written to. An operation computes in the type of its input.

    Args:
        backend: whose namespace computes.
        training: whether `saved` is kept; without it every `saved` is None, and weights are taken to stay what they are
            as long as these operations are used, so that what is made of them is made once.
    """

    def __init__(self, backend: Backend, training: bool = False) -> None:
        self.backend = backend
        self.xp = backend.xp
        self.training = training

    def _save(self, *residuals: Any) -> Saved:
        return residuals if self.training else None

    def _zeros(self, shape: tuple[int, ...], like: Array) -> Array:
        return self.xp.zeros(shape, dtype=like.dtype, device=device(like))
