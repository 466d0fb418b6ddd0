"""SiLU, GELU, dropout, modulation and added vectors, by the kernels of `activation.cu`."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.ops.activation import Dropout
from tinyddpm.ops.base import Saved
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.launching import Launching
from tinyddpm.ops.cuda.random import mask_arguments


class Drawn(NamedTuple):
    """Residuals of dropout: the arguments by which a kernel draws the mask again."""

    mask: tuple[Any, ...]


class CudaActivations(Launching):
    """Operations that are a single pass over their arguments, computed in float32."""

    def silu(self, x: Array) -> tuple[Array, Saved]:
        """Return x σ(x) by one kernel."""
        if not self._takes(x):
            return super().silu(x)
        x = self.xp.ascontiguousarray(x)
        return self._elementwise("activation", "silu_forward", x), self._save(x)

    def silu_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx of `silu` by one kernel."""
        (x,) = saved
        if not self._takes(x, dy):
            return super().silu_backward(saved, dy)
        return self._elementwise("activation", "silu_backward", x, self.xp.ascontiguousarray(dy))

    def gelu(self, x: Array) -> tuple[Array, Saved]:
        """Return GELU's tanh form by one kernel."""
        if not self._takes(x):
            return super().gelu(x)
        x = self.xp.ascontiguousarray(x)
        return self._elementwise("activation", "gelu_forward", x), self._save(x)

    def gelu_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx of `gelu` by one kernel."""
        (x,) = saved
        if not self._takes(x, dy):
            return super().gelu_backward(saved, dy)
        return self._elementwise("activation", "gelu_backward", x, self.xp.ascontiguousarray(dy))

    def dropout(self, x: Array, dropout: Dropout) -> tuple[Array, Saved]:
        """Return x keep / (1 − rate) by one kernel, which draws the mask itself."""
        mask = mask_arguments(dropout) if self._takes(x) else None
        if mask is None:
            return super().dropout(x, dropout)
        return self._dropped(x, mask), Drawn(mask) if self.training else None

    def dropout_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx by the same kernel, which draws the mask again."""
        return self._dropped(dy, saved.mask) if isinstance(saved, Drawn) else super().dropout_backward(saved, dy)

    def modulate(self, x: Array, scale: Array, shift: Array) -> tuple[Array, Saved]:
        """Return x (1 + scale) + shift by one kernel."""
        if not self._takes(x, scale, shift):
            return super().modulate(x, scale, shift)
        x, scale, shift = map(self.xp.ascontiguousarray, (x, scale, shift))
        return self._per_sample("modulate_forward", x, scale, shift), self._save(x, scale)

    def modulate_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dscale, dshift) by one kernel."""
        x, scale = saved
        if not self._takes(x, scale, dy):
            return super().modulate_backward(saved, dy)
        dy = self.xp.ascontiguousarray(dy)
        dx, dscale, dshift = (self._empty(like.shape, like.dtype) for like in (x, scale, scale))
        self._sums("modulate_backward", 2, dy, x, scale, dx, dscale, dshift)
        return dx, dscale, dshift

    def add_vector(self, x: Array, v: Array) -> tuple[Array, Saved]:
        """Return x + v by one kernel."""
        if not self._takes(x, v):
            return super().add_vector(x, v)
        x, v = self.xp.ascontiguousarray(x), self.xp.ascontiguousarray(v)
        return self._per_sample("add_vector", x, v), self._save()

    def add_vector_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array]:
        """Return (dx, dv), the sum by one kernel; dx is dy itself."""
        if not self._takes(dy):
            return super().add_vector_backward(saved, dy)
        dv = self._empty((dy.shape[0], dy.shape[-1]), dy.dtype)
        self._sums("vector_gradient", 1, self.xp.ascontiguousarray(dy), dv)
        return dy, dv

    def _dropped(self, x: Array, mask: tuple[Any, ...]) -> Array:
        x = self.xp.ascontiguousarray(x)
        y, size = self._empty(x.shape, x.dtype), prod(x.shape[1:])
        where = geometry.elements(x.shape[0] * -(-size // 4))
        self._launch("activation", "dropout", where, x, *mask, y, np.int64(x.shape[0]), np.int64(size))
        return y

    def _per_sample(self, kernel: str, x: Array, *vectors: Array) -> Array:
        """Return the result, of x's shape, of a kernel on contiguous x, (N, ..., C), and vectors, (N, C)."""
        (n, *pixels, c), y = x.shape, self._empty(x.shape, x.dtype)
        rows, lanes = n * prod(pixels), geometry.lanes(x.dtype.itemsize, c)
        where = geometry.rows(rows, c, lanes)
        self._launch("activation", kernel, where, x, *vectors, y, prod(pixels), c, rows, lanes)
        return y

    def _sums(self, kernel: str, sums: int, dy: Array, *others: Array) -> None:
        """Launch a kernel of `sums` sums over pixels for each sample and channel of contiguous dy, (N, ..., C)."""
        n, *pixels, c = dy.shape
        lanes = geometry.lanes(dy.dtype.itemsize, c)
        where = geometry.channel_sums(prod(pixels), c, lanes, sums, n)
        self._launch("activation", kernel, where, dy, *others, prod(pixels), c, lanes)
