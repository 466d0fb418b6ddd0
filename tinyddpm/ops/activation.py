"""Pointwise operations: SiLU, GELU, dropout."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import Any, Protocol

from tinyddpm.backend import Array, Random
from tinyddpm.ops.base import Family, Saved

GELU_SCALE = sqrt(2 / pi)
GELU_CUBIC = 0.044715


class Masks(Protocol):
    """Source of the dropout masks of one training step, each a function of (seed, step, sample, layer, element).

    Attributes:
        random: random numbers of the training's seed.
        step: number of the step: an int, or a (1,) int64 array on the device.
        samples: (N,) indices of the samples, on the host or int64 on the device.
    """

    random: Random
    step: int | Array
    samples: Any

    def keep(self, shape: tuple[int, ...], rate: float, layer: int) -> Array:
        """Return a boolean mask of `shape` (N, ...), True with probability 1 − rate."""
        ...


@dataclass(frozen=True)
class Dropout:
    """Dropout of one layer in one training step.

    Attributes:
        noise: source of the mask.
        rate: probability that an element is dropped, in [0, 1).
        layer: number of the layer among the network's dropout layers; each has its own masks.
    """

    noise: Masks
    rate: float
    layer: int


class Activation(Family):
    """Elementwise functions."""

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

    def dropout(self, x: Array, dropout: Dropout) -> tuple[Array, Saved]:
        """Return y = x keep / (1 − rate), whose mean over masks is x (Srivastava et al. 2014).

        Linear in x: dx = dy keep / (1 − rate). Saved is the mask.

        Args:
            x: (N, ...).
            dropout: the rate and the source of the mask.
        """
        keep = dropout.noise.keep(x.shape, dropout.rate, dropout.layer)
        return self._masked(x, keep, dropout.rate), self._save(keep, dropout.rate)

    def dropout_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx of `dropout`."""
        keep, rate = saved
        return self._masked(dy, keep, rate)

    def _sigmoid(self, x: Array) -> Array:
        """Return σ(x) = (1 + tanh(x / 2)) / 2, which cannot overflow."""
        return (1 + self.xp.tanh(x / 2)) / 2

    def _gelu_tanh(self, x: Array) -> Array:
        return self.xp.tanh(GELU_SCALE * x * (1 + GELU_CUBIC * x**2))

    def _masked(self, x: Array, keep: Array, rate: float) -> Array:
        return x * self.xp.astype(keep, x.dtype) / (1 - rate)
