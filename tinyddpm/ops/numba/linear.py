"""Linear maps in blocks of rows: bias and residual are added to a block of products while it is in the cache."""

from __future__ import annotations

import numpy as np

from tinyddpm.ops.base import Saved
from tinyddpm.ops.linear import Linear
from tinyddpm.ops.numba.arrays import NDArray, Places, plain, stored
from tinyddpm.ops.numba.compiling import ahead, compiled
from tinyddpm.ops.numba.lanes import BYTES
from tinyddpm.ops.numba.products import VECTORS, fits, panel_width, product
from tinyddpm.ops.numba.sharing import share

BLOCK = 64
"""Number of rows whose product, bias and residual are computed before the next block of rows."""

TERMS = 256
"""Number of rows of x and dy in a block, whose product is added to dW before that of the next block."""


class NumbaLinear(Linear):
    """Products with a weight matrix whose columns fill whole panels; NumPy's products for other matrices."""

    def linear(self, x: NDArray, w: NDArray, b: NDArray, residual: NDArray | None = None) -> tuple[NDArray, Saved]:
        """Return y = x W + b, the residual added in the same pass as the bias."""
        if not fits(w.shape[1], x.dtype):
            return super().linear(x, w, b, residual)
        x, w = plain(x), plain(w)
        return _mapped(x, w, plain(b, x.dtype), residual), self._save(x, w)

    def linear_backward(
        self, saved: Saved, dy: NDArray, into: Places = None, added: tuple[NDArray, ...] = ()
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dw, db) of `linear`."""
        x, w = saved
        c_in, c_out = w.shape
        if not (fits(c_in, dy.dtype) and fits(c_out, dy.dtype)):
            return stored(super().linear_backward(saved, dy), into, added)
        dy = plain(dy)
        dx = _mapped(dy, np.ascontiguousarray(w.T), np.zeros(c_in, dy.dtype), added[0] if added else None)
        for other in added[1:]:
            dx += other
        dw, db = into or (np.empty(w.shape, w.dtype), np.empty(c_out, w.dtype))
        flat = x.reshape(-1), dy.reshape(-1), dw.reshape(-1), db
        share(lambda first, last: _gradient(*flat, first, last), c_out // panel_width(dy.itemsize), dy.size * c_in)
        return dx, dw, db


def _mapped(x: NDArray, w: NDArray, b: NDArray, residual: NDArray | None) -> NDArray:
    """Return x W + b, plus the residual if given."""
    c_in, c_out = w.shape
    y = np.empty((*x.shape[:-1], c_out), x.dtype)
    other = y[:0] if residual is None else plain(residual, x.dtype)
    flat = x.reshape(-1), w.reshape(-1), b, other.reshape(-1), y.reshape(-1)
    share(lambda first, last: _map(*flat, first, last), y.size // c_out, y.size * c_in)
    return y


@ahead("f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], i8, i8")
@compiled
def _map(x: NDArray, w: NDArray, b: NDArray, residual: NDArray, y: NDArray, first: int, last: int) -> None:
    """Write x W + b, plus the residual if it is not empty, to the rows of y from `first` to below `last`."""
    c_out = b.size
    c_in = w.size // c_out
    for start in range(first, last, BLOCK):
        rows = min(BLOCK, last - start)
        product(y, start * c_out, c_out, x, start * c_in, c_in, 1, w, 0, c_out, rows, c_out, c_in, 0)
        for n in range(start, start + rows):
            y_n = y[n * c_out : (n + 1) * c_out]
            if residual.size:
                other = residual[n * c_out : (n + 1) * c_out]
                for i in range(len(y_n)):
                    y_n[i] = (y_n[i] + b[i]) + other[i]
            else:
                for i in range(len(y_n)):
                    y_n[i] += b[i]


@ahead("f4[::1], f4[::1], f4[::1], f4[::1], i8, i8")
@compiled
def _gradient(x: NDArray, dy: NDArray, dw: NDArray, db: NDArray, first: int, last: int) -> None:
    """Write the panels of columns of dW = xᵀ dy and db = Σ dy from `first` to below `last`."""
    c_out = db.size
    c_in, count, panel = dw.size // c_out, dy.size // c_out, VECTORS * BYTES // dy.itemsize
    begin, columns = first * panel, (last - first) * panel
    total = db[begin : begin + columns]
    for i in range(columns):
        total[i] = 0
    for start in range(0, count, TERMS):
        rows = min(TERMS, count - start)
        product(
            dw, begin, c_out, x, start * c_in, 1, c_in, dy, start * c_out + begin, c_out, c_in, columns, rows, start
        )
        for n in range(start, start + rows):
            dy_n = dy[n * c_out + begin : n * c_out + begin + columns]
            for i in range(len(dy_n)):
                total[i] += dy_n[i]
