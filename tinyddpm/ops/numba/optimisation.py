"""Adam and the running average of weights in a single pass over memory."""

from __future__ import annotations

import numpy as np

from tinyddpm.ops.cpu.blocks import NDArray
from tinyddpm.ops.numba.compiling import ahead, compiled
from tinyddpm.ops.optimisation import Descent, Factor, Optimisation

FINITE, CLIP, M_KEPT, M_NEW, V_KEPT, V_NEW, RATE, ROOT_V, EMA_KEPT, EMA_NEW = map(int, list(Factor)[:10])


class NumbaOptimisation(Optimisation):
    """The end of a training step, with a compiled `adam`."""

    def adam(
        self, descent: Descent, factors: NDArray, gradient: NDArray, weights: NDArray, ema: NDArray, m: NDArray,
        v: NDArray,
    ) -> None:  # fmt: skip
        """Apply Adam and the running average in place; change nothing if the step is not finite."""
        _adam(factors, gradient, weights, ema, m, v, gradient.dtype.type(descent.eps))


@ahead("f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4")
@compiled
def _adam(
    factors: NDArray, gradient: NDArray, weights: NDArray, ema: NDArray, m: NDArray, v: NDArray, eps: float
) -> None:
    if factors[FINITE] == 0:
        return
    clip, m_kept, m_new, v_kept, v_new = factors[CLIP], factors[M_KEPT], factors[M_NEW], factors[V_KEPT], factors[V_NEW]
    rate, root_v, ema_kept, ema_new = factors[RATE], factors[ROOT_V], factors[EMA_KEPT], factors[EMA_NEW]
    for i in range(gradient.size):
        g = clip * gradient[i]
        m_i = m_kept * m[i] + m_new * g
        v_i = v_kept * v[i] + v_new * (g * g)
        w = weights[i] - rate * m_i / (np.sqrt(v_i) / root_v + eps)
        m[i] = m_i
        v[i] = v_i
        weights[i] = w
        ema[i] = ema_kept * ema[i] + ema_new * w
