"""SiLU, GELU and dropout, one pass over memory each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm.ops.activation import GELU_CUBIC, GELU_SCALE, Activation
from tinyddpm.ops.base import Saved
from tinyddpm.ops.numba.arrays import NDArray, plain
from tinyddpm.ops.numba.compiling import ahead, compiled
from tinyddpm.ops.numba.exponential import logistic
from tinyddpm.ops.numba.sharing import PASS, share


class NumbaActivations(Activation):
    """Elementwise functions, compiled."""

    def silu(self, x: NDArray) -> tuple[NDArray, Saved]:
        """Return x σ(x)."""
        x = plain(x)
        return _each(_silu, x), self._save(x)

    def silu_backward(self, saved: Saved, dy: NDArray) -> NDArray:
        """Return dx of `silu`."""
        (x,) = saved
        return _each(_silu_backward, x, plain(dy))

    def gelu(self, x: NDArray) -> tuple[NDArray, Saved]:
        """Return x (1 + tanh u) / 2, u = √(2/π) (x + 0.044715 x³), computed as x σ(2 u): (1 + tanh u) / 2 = σ(2 u)."""
        x = plain(x)
        return _each(_gelu, x), self._save(x)

    def gelu_backward(self, saved: Saved, dy: NDArray) -> NDArray:
        """Return dx of `gelu`, dy σ (1 + x (1 − σ) 2 u') with σ = σ(2 u)."""
        (x,) = saved
        return _each(_gelu_backward, x, plain(dy))

    def _masked(self, x: NDArray, keep: NDArray, rate: float) -> NDArray:
        """Return x keep / (1 − rate), for a boolean mask of x's shape."""
        kept = x.dtype.type(1 / (1 - rate))
        return _each(lambda a, mask, y: _drop(a, mask, y, kept), plain(x), plain(keep))


def _each(function: Callable[..., None], x: NDArray, *others: NDArray) -> NDArray:
    """Return an array of x's shape, which `function` fills: it takes x, the others and the result, all of them flat."""
    y = np.empty_like(x)
    flat = [a.reshape(-1) for a in (x, *others, y)]
    share(lambda first, last: function(*(a[first:last] for a in flat)), x.size, PASS * x.size)
    return y


@ahead("f4[::1], f4[::1]")
@compiled
def _silu(x: NDArray, y: NDArray) -> None:
    for i in range(len(x)):
        y[i] = x[i] * logistic(x[i])


@ahead("f4[::1], f4[::1], f4[::1]")
@compiled
def _silu_backward(x: NDArray, dy: NDArray, dx: NDArray) -> None:
    for i in range(len(x)):
        sigma = logistic(x[i])
        dx[i] = dy[i] * (sigma + x[i] * (sigma - sigma * sigma))


@ahead("f4[::1], f4[::1]")
@compiled
def _gelu(x: NDArray, y: NDArray) -> None:
    slope, cubic = x.dtype.type(2 * GELU_SCALE), x.dtype.type(2 * GELU_SCALE * GELU_CUBIC)
    for i in range(len(x)):
        y[i] = x[i] * logistic(x[i] * (slope + cubic * x[i] * x[i]))


@ahead("f4[::1], f4[::1], f4[::1]")
@compiled
def _gelu_backward(x: NDArray, dy: NDArray, dx: NDArray) -> None:
    slope, cubic = x.dtype.type(2 * GELU_SCALE), x.dtype.type(2 * GELU_SCALE * GELU_CUBIC)
    three = x.dtype.type(3)
    for i in range(len(x)):
        square = x[i] * x[i]
        sigma = logistic(x[i] * (slope + cubic * square))
        dx[i] = dy[i] * (sigma + x[i] * (sigma - sigma * sigma) * (slope + three * cubic * square))


@ahead("f4[::1], b1[::1], f4[::1], f4")
@compiled
def _drop(x: NDArray, keep: NDArray, y: NDArray, kept: Any) -> None:
    dropped = x.dtype.type(0)
    for i in range(len(x)):
        y[i] = x[i] * (kept if keep[i] else dropped)
