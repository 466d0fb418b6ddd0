"""Softmax attention head by head, so that a head's weights are computed and used while they are in the cache.

Rows of weights are padded to whole panels of the products; numbers beyond the last key are not used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyddpm.ops.attention import Attention
from tinyddpm.ops.base import Saved
from tinyddpm.ops.numba.arrays import NDArray, plain
from tinyddpm.ops.numba.compiling import ahead, compiled
from tinyddpm.ops.numba.exponential import exp
from tinyddpm.ops.numba.lanes import BYTES
from tinyddpm.ops.numba.products import VECTORS, fits, panel_width, product, scratch
from tinyddpm.ops.numba.reductions import largest_of, product_of, total_of
from tinyddpm.ops.numba.sharing import share

BLOCK = 32
"""Number of queries whose scores, softmax and weighted means are computed before the next block of queries."""


class NumbaAttention(Attention):
    """Attention for heads whose channels fill whole panels; NumPy's attention for other heads."""

    def attention(
        self, q: NDArray, k: NDArray, v: NDArray, heads: int = 1, mask: NDArray | None = None
    ) -> tuple[NDArray, Saved]:
        """Return O = softmax(Q Kᵀ / √d) V per sample and head. Saved are q, k, v, P and the number of heads."""
        (n, queries, c), keys = q.shape, k.shape[1]
        if not fits(c // heads, q.dtype):
            return super().attention(q, k, v, heads, mask)
        k, v = self._without_masked(k, v, mask)
        q, k, v = plain(q), plain(k), plain(v)
        width = panel_width(q.itemsize)
        p = np.empty((n, heads, queries, -(-keys // width) * width) if self.training else (0, 0, 0, 0), q.dtype)
        y = np.empty(q.shape, q.dtype)
        there = np.ones((0, 0), np.bool_) if mask is None else plain(mask)
        scale = q.dtype.type((c // heads) ** -0.5)

        def forward(first: int, last: int) -> None:
            _forward(q, k, v, there, heads, scale, p, y, first, last)

        share(forward, n * heads * -(-queries // BLOCK), 2 * n * queries * keys * c)
        return y, self._save(q, k, v, p, heads)

    def attention_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dq, dk, dv) of `attention`."""
        q, k, v, p, heads = saved
        if p.ndim == 3:  # saved by NumPy's attention, (N · heads, L, M)
            return super().attention_backward(saved, dy)
        dq, dk, dv = (np.empty(a.shape, a.dtype) for a in (q, k, v))
        dy, scale = plain(dy), q.dtype.type((q.shape[2] // heads) ** -0.5)

        def backward(first: int, last: int) -> None:
            _backward(q, k, v, p, dy, heads, scale, dq, dk, dv, first, last)

        share(backward, len(q) * heads, 4 * dy.size * k.shape[1])
        return dq, dk, dv


@compiled
def _transposed(a: NDArray, at: int, row: int, rows: int, columns: int, a_t: NDArray, width: int) -> None:
    """Write the transpose of a (rows, columns) part of a flat array to `a_t`, (columns, width), padded with zeros."""
    for i in range(columns):
        line = a_t[i * width : (i + 1) * width]
        for j in range(rows):
            line[j] = a[at + j * row + i]
        for j in range(rows, width):
            line[j] = 0


@ahead("f4[:, :, ::1], f4[:, :, ::1], f4[:, :, ::1], b1[:, ::1], i8, f4, f4[:, :, :, ::1], f4[:, :, ::1], i8, i8")
@compiled
def _forward(
    q: NDArray, k: NDArray, v: NDArray, mask: NDArray, heads: int, scale: Any, p: NDArray, y: NDArray,
    first: int, last: int,
) -> None:  # fmt: skip
    """Write y, and p if it is not empty, for blocks of queries `first` to below `last` of all samples and heads."""
    _, queries, c = q.shape
    keys, d = k.shape[1], c // heads
    panel = VECTORS * BYTES // q.itemsize
    width, blocks = (keys + panel - 1) // panel * panel, (queries + BLOCK - 1) // BLOCK
    k_t, own = scratch(d * width, q), scratch(BLOCK * width, q)
    flat_q, flat_k, flat_v = q.reshape(q.size), k.reshape(k.size), v.reshape(v.size)
    flat_p, flat_y = p.reshape(p.size), y.reshape(y.size)
    of = -1
    for block in range(first, last):
        head = block // blocks
        n, start = head // heads, block % blocks * BLOCK
        at, rows = head % heads * d, min(BLOCK, queries - start)
        if head != of:
            _transposed(flat_k, n * keys * c + at, c, keys, d, k_t, width)
            of = head
        from_q = (n * queries + start) * c + at
        weights = flat_p[(head * queries + start) * width : (head * queries + start + rows) * width] if p.size else own
        product(weights, 0, width, flat_q, from_q, c, 1, k_t, 0, width, rows, width, d, 0)
        for i in range(rows):
            row = weights[i * width : i * width + keys]
            if len(mask):
                _masked_softmax(row, mask[n], scale)
            else:
                _softmax(row, scale)
        product(flat_y, from_q, c, weights, 0, width, 1, flat_v, n * keys * c + at, c, rows, d, keys, 0)


@ahead(
    "f4[:, :, ::1], f4[:, :, ::1], f4[:, :, ::1], f4[:, :, :, ::1], f4[:, :, ::1], i8, f4, "
    "f4[:, :, ::1], f4[:, :, ::1], f4[:, :, ::1], i8, i8"
)
@compiled
def _backward(
    q: NDArray, k: NDArray, v: NDArray, p: NDArray, dy: NDArray, heads: int, scale: Any,
    dq: NDArray, dk: NDArray, dv: NDArray, first: int, last: int,
) -> None:  # fmt: skip
    """Write dq, dk and dv for heads `first` to below `last`, counted through all samples."""
    _, queries, c = q.shape
    keys, width, d = k.shape[1], p.shape[3], c // heads
    v_t, ds = scratch(d * width, q), scratch(queries * width, q)
    flat_q, flat_k, flat_v = q.reshape(q.size), k.reshape(k.size), v.reshape(v.size)
    flat_p, flat_dy = p.reshape(p.size), dy.reshape(dy.size)
    flat_dq, flat_dk, flat_dv = dq.reshape(dq.size), dk.reshape(dk.size), dv.reshape(dv.size)
    for head in range(first, last):
        n, at = head // heads, head % heads * d
        of_q, of_k, of_p = n * queries * c + at, n * keys * c + at, head * queries * width
        product(flat_dv, of_k, c, flat_p, of_p, 1, width, flat_dy, of_q, c, keys, d, queries, 0)
        _transposed(flat_v, of_k, c, keys, d, v_t, width)
        product(ds, 0, width, flat_dy, of_q, c, 1, v_t, 0, width, queries, width, d, 0)
        for i in range(queries):
            at_row = of_p + i * width
            _softmax_backward(flat_p[at_row : at_row + keys], scale, ds[i * width : i * width + keys])
        product(flat_dq, of_q, c, ds, 0, width, 1, flat_k, of_k, c, queries, d, keys, 0)
        product(flat_dk, of_k, c, ds, 0, 1, width, flat_q, of_q, c, keys, d, queries, 0)


@compiled
def _softmax(row: NDArray, scale: Any) -> None:
    """Overwrite a row of scores with the softmax of `scale` times the scores."""
    one = row.dtype.type(1)
    largest = largest_of(row)
    for i in range(len(row)):
        row[i] = exp((row[i] - largest) * scale)
    share = one / total_of(row)
    for i in range(len(row)):
        row[i] *= share


@compiled
def _masked_softmax(row: NDArray, there: NDArray, scale: Any) -> None:
    """Overwrite a row of scores as `_softmax` does, but with weight 0 for keys whose `there` is False."""
    least = np.finfo(row.dtype).min
    for i in range(len(row)):
        row[i] = row[i] if there[i] else least
    _softmax(row, scale)
    for i in range(len(row)):
        row[i] = row[i] if there[i] else row.dtype.type(0)


@compiled
def _softmax_backward(p: NDArray, scale: Any, dp: NDArray) -> None:
    """Overwrite a row of dP with dS = P (dP − Σ_j dP_j P_j) times `scale`."""
    along = product_of(p, dp)
    for i in range(len(p)):
        dp[i] = p[i] * (dp[i] - along) * scale
