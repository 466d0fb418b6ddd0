"""Linear maps: the reference's products, with the sums left to the BLAS."""

from __future__ import annotations

from typing import cast

import numpy as np

from tinyddpm.ops.base import Saved
from tinyddpm.ops.cpu.blocks import NDArray, added, sum_over_rows
from tinyddpm.ops.linear import Linear

ROWS = 1 << 12
"""Rows that are taken through all products before the next: they come from memory once."""


class CpuLinear(Linear):
    """Products with a weight matrix."""

    def linear(self, x: NDArray, w: NDArray, b: NDArray) -> tuple[NDArray, Saved]:
        """Return y = x W + b."""
        flat = x.reshape(-1, w.shape[0])
        y = np.empty((len(flat), w.shape[1]), x.dtype)
        for start in range(0, len(flat), ROWS):
            y_i = y[start : start + ROWS]
            np.matmul(flat[start : start + ROWS], w, out=y_i)
            y_i += b
        return y.reshape(*x.shape[:-1], w.shape[1]), self._save(x, w)

    def linear_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dw, db) of `linear`."""
        x, w = saved
        flat, dy_flat = x.reshape(-1, w.shape[0]), dy.reshape(-1, w.shape[1])
        w_t = np.ascontiguousarray(w.T)
        dx = np.empty_like(flat)
        dw: NDArray | None = None
        db: NDArray | None = None
        for start in range(0, len(flat), ROWS):
            dy_i = dy_flat[start : start + ROWS]
            np.matmul(dy_i, w_t, out=dx[start : start + ROWS])
            dw = added(dw, flat[start : start + ROWS].T @ dy_i)
            db = added(db, sum_over_rows(dy_i))
        return dx.reshape(x.shape), cast(NDArray, dw), cast(NDArray, db)[0]
