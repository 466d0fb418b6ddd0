"""Pointwise operations: SiLU, GELU, dropout."""

from __future__ import annotations

from math import pi, sqrt

from tinyddpm.backend import Array
from tinyddpm.ops.base import Family, Saved

GELU_SCALE = sqrt(2 / pi)
GELU_CUBIC = 0.044715


class Activation(Family):
    """Functions of one element at a time."""

    def silu(self, x: Array) -> tuple[Array, Saved]:
        """Return y = x σ(x), σ(x) = 1 / (1 + e^(−x)) (Hendrycks, Gimpel 2016; "swish").

        σ' = σ (1 − σ), so dx = dy σ (1 + x (1 − σ)). Saved is x: σ is recomputed.
        """
        return x * self._sigmoid(x), self._save(x)

    def silu_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx of `silu`."""
        (x,) = saved
        sigma = self._sigmoid(x)
        return dy * sigma * (1 + x * (1 - sigma))

    def gelu(self, x: Array) -> tuple[Array, Saved]:
        """Return y = x (1 + tanh u) / 2, u = √(2/π) (x + 0.044715 x³): GELU's tanh form (Hendrycks, Gimpel 2016).

        tanh' = 1 − tanh² and u' = √(2/π) (1 + 3 · 0.044715 x²), so dx = dy ((1 + tanh u) + x (1 − tanh² u) u') / 2.
        Saved is x.
        """
        return x * (1 + self._gelu_tanh(x)) / 2, self._save(x)

    def gelu_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx of `gelu`."""
        (x,) = saved
        th = self._gelu_tanh(x)
        du = GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2)
        return dy * ((1 + th) + x * (1 - th**2) * du) / 2

    def dropout(self, x: Array, keep: Array, rate: float) -> tuple[Array, Saved]:
        """Return y = x keep / (1 − rate), whose mean over masks is x (Srivastava et al. 2014).

        Linear in x: dx = dy keep / (1 − rate). Saved is the mask.

        Args:
            x: any shape.
            keep: booleans of x's shape, True with probability 1 − rate.
            rate: in [0, 1).
        """
        return self._masked(x, keep, rate), self._save(keep, rate)

    def dropout_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx of `dropout`."""
        keep, rate = saved
        return self._masked(dy, keep, rate)

    def _sigmoid(self, x: Array) -> Array:
        """Return σ(x) = (1 + tanh(x / 2)) / 2, which cannot overflow."""
        return (1 + self.xp.tanh(x / 2)) / 2

    def _gelu_tanh(self, x: Array) -> Array:
        return self.xp.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))

    def _masked(self, x: Array, keep: Array, rate: float) -> Array:
        return x * self.xp.astype(keep, x.dtype) / (1 - rate)
