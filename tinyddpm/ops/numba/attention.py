"""Softmax attention in blocks of weights that stay in the cache: the BLAS multiplies, the rest is compiled."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from tinyddpm.ops.attention import Attention
from tinyddpm.ops.base import Saved
from tinyddpm.ops.numba.arrays import PRODUCTS, NDArray, plain, shared
from tinyddpm.ops.numba.compiling import ahead, compiled
from tinyddpm.ops.numba.exponential import exp
from tinyddpm.ops.numba.reductions import largest_of, product_of, total_of

BLOCK = 1 << 16
"""Weights in a block, about; the BLAS is faster with those of all queries."""

Block = tuple[slice, slice, slice]
"""Samples, heads and queries."""


class NumbaAttention(Attention):
    """Weighted means of values; what is saved are q, k, v and P by heads."""

    def attention(
        self, q: NDArray, k: NDArray, v: NDArray, heads: int = 1, mask: NDArray | None = None
    ) -> tuple[NDArray, Saved]:
        """Return O = softmax(Q Kᵀ / √d) V per sample and head."""
        k, v = self._there(k, v, mask)
        y = np.empty((*q.shape[:2], v.shape[2]), q.dtype)
        q, k, v, o = (self._split(plain(a), heads) for a in (q, k, v, y))
        (n, _, queries, d), keys = q.shape, k.shape[2]
        p = np.empty((n, heads, queries, keys), q.dtype) if self.training else None
        absent = None if mask is None else ~mask[:, None, None, :]

        def weigh(block: Block) -> None:
            pair = block[:2]
            k_t = k[pair].transpose(0, 1, 3, 2)
            weights = np.matmul(q[block], k_t, out=None if p is None else p[block])
            if absent is not None:
                np.copyto(weights, np.finfo(weights.dtype).min, where=absent[block[0]])
            _softmax(weights.reshape(-1, keys), q.dtype.type(d**-0.5))
            if absent is not None:
                np.copyto(weights, 0, where=absent[block[0]])
            np.matmul(weights, v[pair], out=o[block])

        _do(weigh, _blocks(n, heads, queries, keys, whole=False), n * heads * queries * keys * (1 + 2 * d // PRODUCTS))
        return y, self._save(q, k, v, p)

    def attention_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dq, dk, dv) of `attention`."""
        q, k, v, p = saved
        n, heads, queries, keys = p.shape
        gradients = [np.empty((n, a.shape[2], heads * a.shape[3]), a.dtype) for a in (q, k, v)]
        dq, dk, dv, do = (self._split(a, heads) for a in (*gradients, plain(dy)))

        def undo(block: Block) -> None:
            pair = block[:2]
            p_b, do_b = p[pair], do[pair]
            np.matmul(p_b.transpose(0, 1, 3, 2), do_b, out=dv[pair])
            ds = np.matmul(do_b, v[pair].transpose(0, 1, 3, 2))
            _softmax_backward(p_b.reshape(-1, keys), q.dtype.type(q.shape[3] ** -0.5), ds.reshape(-1, keys))
            np.matmul(ds, k[pair], out=dq[pair])
            np.matmul(ds.transpose(0, 1, 3, 2), q[pair], out=dk[pair])

        _do(undo, _blocks(n, heads, queries, keys, whole=True), p.size * (1 + 4 * q.shape[3] // PRODUCTS))
        return gradients[0], gradients[1], gradients[2]


def _blocks(n: int, heads: int, queries: int, keys: int, whole: bool) -> list[Block]:
    """Return blocks of samples, of heads where those of one sample are too many, and of queries unless `whole`.

    The queries of a lone head are two blocks at least: two threads then share it.
    """
    rows = queries if whole else min(max(1, BLOCK // keys), -(-queries // 2) if n * heads == 1 else queries)
    together = min(heads, max(1, BLOCK // (queries * keys)))
    samples = max(1, BLOCK // (heads * queries * keys))
    return list(product(_cut(n, samples), _cut(heads, together), _cut(queries, rows)))


def _cut(n: int, size: int) -> list[slice]:
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def _do(function: Callable[[Block], None], blocks: list[Block], elements: int) -> None:
    """Do `function` for all blocks, shared by idle threads."""

    def some(first: int, last: int) -> None:
        for block in blocks[first:last]:
            function(block)

    shared(some, len(blocks), elements)


@ahead("f4[:, ::1], f4")
@compiled
def _softmax(s: NDArray, scale: Any) -> None:
    """Turn each row into the softmax of `scale` times itself."""
    one = s.dtype.type(1)
    for n in range(len(s)):
        row = s[n]
        largest = largest_of(row)
        for i in range(len(row)):
            row[i] = exp((row[i] - largest) * scale)
        share = one / total_of(row)
        for i in range(len(row)):
            row[i] *= share


@ahead("f4[:, ::1], f4, f4[:, ::1]")
@compiled
def _softmax_backward(p: NDArray, scale: Any, dp: NDArray) -> None:
    """Turn dP into dS, P (dP − Σ_j dP_j P_j) times `scale`."""
    for n in range(len(p)):
        p_n, dp_n = p[n], dp[n]
        along = product_of(p_n, dp_n)
        for i in range(len(p_n)):
            dp_n[i] = p_n[i] * (dp_n[i] - along) * scale
