"""Linear maps in blocks of rows: what is added to a product is added while it is in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyddpm.ops.base import Saved
from tinyddpm.ops.cpu.blocks import sum_over_rows
from tinyddpm.ops.linear import Linear
from tinyddpm.ops.numba.arrays import PRODUCTS, NDArray, Places, nothing, plain, shared
from tinyddpm.ops.numba.compiling import ahead, compiled

BLOCK, LEAST_ROWS = 1 << 16, 256
"""Elements of a block of rows, about, and rows that the BLAS makes good use of."""


class NumbaLinear(Linear):
    """Products with a weight matrix by the BLAS."""

    def linear(self, x: NDArray, w: NDArray, b: NDArray, residual: NDArray | None = None) -> tuple[NDArray, Saved]:
        """Return y = x W + b, and a residual added in the same pass as the bias."""
        c_in, c_out = w.shape
        y = np.empty((*x.shape[:-1], c_out), x.dtype)
        flat, rows, b = x.reshape(-1, c_in), y.reshape(-1, c_out), plain(b, x.dtype)
        others = nothing(x.dtype) if residual is None else plain(residual, x.dtype).reshape(-1, c_out)

        def multiply(first: int, last: int) -> None:
            for part in _blocks(first, last, c_out):
                np.matmul(flat[part], w, out=rows[part])
                _add(b, others[part], rows[part])

        shared(multiply, len(flat), len(flat) * c_out * max(1, c_in // PRODUCTS))
        return y, self._save(x, w)

    def linear_backward(
        self, saved: Saved, dy: NDArray, into: Places = None, added: tuple[NDArray, ...] = ()
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dw, db) of `linear`."""
        x, w = saved
        c_in, c_out = w.shape
        dx, dy, others = np.empty(x.shape, x.dtype), dy.reshape(-1, c_out), [a.reshape(-1, c_in) for a in added]
        flat, w_t = dx.reshape(-1, c_in), np.ascontiguousarray(w.T)
        for part in _blocks(0, len(flat), c_in) if others else [slice(None)]:
            np.matmul(dy[part], w_t, out=flat[part])
            for other in others:
                flat[part] += other[part]
        dw, db = into or (np.empty(w.shape, w.dtype), np.empty(c_out, w.dtype))
        np.matmul(x.reshape(-1, c_in).T, dy, out=dw)
        db[...] = sum_over_rows(dy)[0]
        return dx, dw, db


def _blocks(first: int, last: int, width: int) -> Iterator[slice]:
    """Yield slices of rows of so many elements that fit the cache together."""
    rows = max(LEAST_ROWS, BLOCK // width)
    for start in range(first, last, rows):
        yield slice(start, min(last, start + rows))


@ahead("f4[::1], f4[:, ::1], f4[:, ::1]")
@compiled
def _add(b: NDArray, residual: NDArray, y: NDArray) -> None:
    """Add a bias to each row of y, and a residual unless it has no rows."""
    for n in range(len(y)):
        y_n = y[n]
        if len(residual):
            other = residual[n]
            for i in range(len(y_n)):
                y_n[i] = (y_n[i] + b[i]) + other[i]
        else:
            for i in range(len(y_n)):
                y_n[i] += b[i]
