"""Softmax attention, for self-attention and cross-attention, with a mask of keys."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.ops.base import Family, Saved


class Attention(Family):
    """Means of values, weighted by the softmax of products of queries and keys (Vaswani et al. 2017)."""

    def attention(self, q: Array, k: Array, v: Array, heads: int = 1, mask: Array | None = None) -> tuple[Array, Saved]:
        """Return, per sample and head, O = P V with P = softmax(S), S = Q Kᵀ / √d, d = C / heads.

        A masked key has weight 0, and so, by the derivation below, gradients 0. Its numbers in k and v are first
        replaced by 0, so that not even NaN has an effect. If all keys are masked, all weights are 0, and so is O.

        Backward: dV = Pᵀ dO, dP = dO Vᵀ. A softmax row has ∂P_j/∂S_l = P_j (δ_jl − P_l), so
        dS = P (dP − Σ_j dP_j P_j), and dQ = dS K / √d, dK = dSᵀ Q / √d. Saved are q, k, v by heads, and P.

        Args:
            q: (N, L, C), queries.
            k: (N, M, C), keys; in self-attention M = L.
            v: (N, M, C), values.
            heads: number of heads, a divisor of C; each has its own d channels.
            mask: (N, M) booleans, False for keys to leave out; None to use all.

        Returns:
            O of shape (N, L, C), and (q, k, v, P).
        """
        k, v = self._without_masked(k, v, mask)
        q, k, v = (self._split(a, heads) for a in (q, k, v))
        s = q @ self.xp.matrix_transpose(k) * q.shape[-1] ** -0.5
        if mask is None:
            p = self._softmax(s)
        else:
            there = mask[:, None, None, :]
            lowest = self.xp.full_like(s, self.xp.finfo(s.dtype).min)
            p = self.xp.where(there, self._softmax(self.xp.where(there, s, lowest)), self._zeros((), like=s))
        return self._merge(p @ v), self._save(q, k, v, p)

    def attention_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dq, dk, dv) of `attention`."""
        q, k, v, p = saved
        dy = self._split(dy, q.shape[1])
        dv = self.xp.matrix_transpose(p) @ dy
        dp = dy @ self.xp.matrix_transpose(v)
        ds = p * (dp - self.xp.sum(dp * p, axis=-1, keepdims=True)) * q.shape[-1] ** -0.5
        dq, dk = ds @ k, self.xp.matrix_transpose(ds) @ q
        return self._merge(dq), self._merge(dk), self._merge(dv)

    def _without_masked(self, k: Array, v: Array, mask: Array | None) -> tuple[Array, Array]:
        """Return k and v with 0 where the mask is False."""
        if mask is None:
            return k, v
        there, zero = mask[:, :, None], self._zeros((), like=k)
        return self.xp.where(there, k, zero), self.xp.where(there, v, zero)

    def _softmax(self, s: Array) -> Array:
        """Return the softmax over the last axis; the maximum is subtracted first, so that exp does not overflow."""
        e = self.xp.exp(s - self.xp.max(s, axis=-1, keepdims=True))
        return e / self.xp.sum(e, axis=-1, keepdims=True)

    def _split(self, a: Array, heads: int) -> Array:
        """Return `a` (N, L, C) as (N, heads, L, d)."""
        n, length, c = a.shape
        return self.xp.permute_dims(self.xp.reshape(a, (n, length, heads, c // heads)), (0, 2, 1, 3))

    def _merge(self, a: Array) -> Array:
        """Return `a` (N, heads, L, d) as (N, L, C)."""
        n, heads, length, d = a.shape
        return self.xp.reshape(self.xp.permute_dims(a, (0, 2, 1, 3)), (n, length, heads * d))
