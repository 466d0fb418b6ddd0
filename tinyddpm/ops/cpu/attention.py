"""Softmax attention in blocks of samples, in place, so that the weights of a block stay in the cache throughout."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyddpm.ops.attention import Attention
from tinyddpm.ops.base import Saved
from tinyddpm.ops.cpu import blocks
from tinyddpm.ops.cpu.blocks import NDArray


class CpuAttention(Attention):
    """Attention on NumPy arrays. Saved are q / √d, k and v by heads, P, and the number of heads."""

    def attention(
        self, q: NDArray, k: NDArray, v: NDArray, heads: int = 1, mask: NDArray | None = None
    ) -> tuple[NDArray, Saved]:
        """Return O = softmax(Q Kᵀ / √d) V per sample and head."""
        k, v = self._without_masked(k, v, mask)
        q, k, v = (self._by_head(a, heads) for a in (q, k, v))
        q = q * q.shape[-1] ** -0.5
        n, length, keys = len(q), q.shape[1], k.shape[1]
        p = np.empty((n, length, keys), q.dtype) if self.training else None
        y = np.empty((n, length, v.shape[2]), q.dtype)
        ones = np.ones((keys, 1), q.dtype)
        absent = None if mask is None else np.repeat(~mask, heads, axis=0)[:, None, :]
        for part in _parts(n, length * keys):
            p_i = np.matmul(q[part], k[part].transpose(0, 2, 1), out=None if p is None else p[part])
            if absent is not None:
                np.copyto(p_i, np.finfo(p_i.dtype).min, where=absent[part])
            p_i -= p_i.max(axis=-1, keepdims=True)
            np.exp(p_i, out=p_i)
            p_i /= p_i @ ones
            if absent is not None:
                np.copyto(p_i, 0, where=absent[part])
            np.matmul(p_i, v[part], out=y[part])
        return self._all_heads(y, heads), self._save(q, k, v, p, heads)

    def attention_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dq, dk, dv) of `attention`."""
        q, k, v, p, heads = saved
        dy = self._by_head(dy, heads)
        dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(v)
        for part in _parts(len(q), p[0].size):
            np.matmul(p[part].transpose(0, 2, 1), dy[part], out=dv[part])
            ds = dy[part] @ v[part].transpose(0, 2, 1)
            ds -= np.vecdot(ds, p[part])[..., None]
            ds *= p[part]
            np.matmul(ds, k[part], out=dq[part])
            np.matmul(ds.transpose(0, 2, 1), q[part], out=dk[part])
        dq *= q.shape[-1] ** -0.5
        return self._all_heads(dq, heads), self._all_heads(dk, heads), self._all_heads(dv, heads)

    def _by_head(self, a: NDArray, heads: int) -> NDArray:
        """Return `a` (N, L, C) as a contiguous (N · heads, L, d)."""
        n, length, c = a.shape
        return np.ascontiguousarray(self._split(a, heads)).reshape(n * heads, length, c // heads)

    def _all_heads(self, a: NDArray, heads: int) -> NDArray:
        """Return `a` (N · heads, L, d) as (N, L, C)."""
        merged: NDArray = self._merge(a.reshape(-1, heads, *a.shape[1:]))
        return merged


def _parts(n: int, elements_each: int) -> Iterator[slice]:
    """Yield slices of n samples, `elements_each` weights a sample, whose weights fit the cache: PIECE elements."""
    count = max(1, blocks.PIECE // elements_each)
    for start in range(0, n, count):
        yield slice(start, start + count)
