"""Linear maps and table look-ups."""

from __future__ import annotations

from typing import Any

from array_api_compat import device

from tinyddpm.backend import Array
from tinyddpm.ops.base import Family, Saved


class Linear(Family):
    """Products with a weight matrix, of dense or one-hot rows, and the embedding of time."""

    def linear(self, x: Array, w: Array, b: Array, residual: Array | None = None) -> tuple[Array, Saved]:
        """Return y = x W + b over the last axis, plus a residual if given; on NHWC images, a 1×1 convolution.

        dx = dy Wᵀ, dW = Σ xᵀ dy and db = Σ dy, summed over all leading axes; dresidual = dy. Saved are x and w.

        Args:
            x: (..., C_in).
            w: (C_in, C_out).
            b: (C_out,).
            residual: array of y's shape and dtype to add to y, or None.

        Returns:
            y of shape (..., C_out), and (x, w).
        """
        flat = self.xp.reshape(x, (-1, x.shape[-1]))
        y = self.xp.reshape(flat @ w + b, (*x.shape[:-1], w.shape[1]))
        if residual is not None:
            y = y + residual
        return y, self._save(x, w)

    def linear_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dw, db) of `linear`; the gradient of a residual is dy itself."""
        x, w = saved
        dy_flat = self.xp.reshape(dy, (-1, w.shape[1]))
        dx = self.xp.reshape(dy_flat @ self.xp.matrix_transpose(w), x.shape)
        dw = self.xp.matrix_transpose(self.xp.reshape(x, (-1, w.shape[0]))) @ dy_flat
        return dx, dw, self.xp.sum(dy_flat, axis=0)

    def embedding(self, table: Array, index: Array) -> tuple[Array, Saved]:
        """Return y[i] = table[index[i]]: the product of a one-hot matrix with the table.

        So dtable = onehotᵀ dy: row k sums the dy[i] of all i with index[i] = k. Saved is the index.

        Args:
            table: (K, D).
            index: (N,) integers in [0, K).

        Returns:
            y of shape (N, D), and (index, K).
        """
        return self.xp.take(table, index, axis=0), self._save(index, table.shape[0])

    def embedding_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dtable of `embedding`, shape (K, D)."""
        index, rows = saved
        each = self.xp.arange(rows, dtype=index.dtype, device=device(dy))
        onehot = self.xp.astype(each[:, None] == index[None, :], dy.dtype)
        return onehot @ dy

    def sinusoidal(self, t: Array, dim: int, dtype: Any, shift: float = 1.0) -> Array:
        """Return the sinusoidal embedding of time: sin(t ω_i), then cos(t ω_i), ω_i = 10000^(−i / (dim/2 − s)).

        i runs from 0 to dim/2 − 1, with s = 1 as in DDPM (after Vaswani et al. 2017, section 3.5). t is data, not a
        parameter: there is no backward.

        Args:
            t: (N,) 0-based steps, integer or real.
            dim: even, at least 4.
            dtype: dtype of the result; angles are computed in float32 or wider.
            shift: s; with 1 the lowest frequency is 1/10000, with 0 it is slightly higher.

        Returns:
            (N, dim).
        """
        half, wide = dim // 2, self.xp.result_type(dtype, self.xp.float32)
        i = self.xp.arange(half, dtype=wide, device=device(t))
        omega = 10000.0 ** (-i / (half - shift))
        angle = self.xp.astype(t, wide)[:, None] * omega[None, :]
        return self.xp.astype(self.xp.concat([self.xp.sin(angle), self.xp.cos(angle)], axis=1), dtype, copy=False)
