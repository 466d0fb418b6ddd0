"""Linear maps: the reference's products, with sums computed by the BLAS and additions in place."""

from __future__ import annotations

import numpy as np

from tinyddpm.ops.base import Saved
from tinyddpm.ops.cpu.blocks import NDArray, sum_over_rows
from tinyddpm.ops.linear import Linear


class CpuLinear(Linear):
    """Products with a weight matrix."""

    def linear(self, x: NDArray, w: NDArray, b: NDArray, residual: NDArray | None = None) -> tuple[NDArray, Saved]:
        """Return y = x W + b, the bias and the residual added in place."""
        y = (x.reshape(-1, w.shape[0]) @ w).reshape(*x.shape[:-1], w.shape[1])
        y += b
        if residual is not None:
            y += residual
        return y, self._save(x, w)

    def linear_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dw, db) of `linear`."""
        x, w = saved
        dy = dy.reshape(-1, w.shape[1])
        dx = dy @ np.ascontiguousarray(w.T)
        return dx.reshape(x.shape), x.reshape(-1, w.shape[0]).T @ dy, sum_over_rows(dy)[0]
