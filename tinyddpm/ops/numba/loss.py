"""Mean squared errors: the difference and its sum of squares in one pass over each sample."""

from __future__ import annotations

import numpy as np

from tinyddpm.ops.base import Saved
from tinyddpm.ops.loss import Loss
from tinyddpm.ops.numba.arrays import NDArray, plain
from tinyddpm.ops.numba.compiling import ahead, compiled
from tinyddpm.ops.numba.reductions import product_of
from tinyddpm.ops.numba.sharing import PASS, share


class NumbaLoss(Loss):
    """Losses, with a compiled mean squared error."""

    def mse(self, prediction: NDArray, target: NDArray) -> tuple[NDArray, Saved]:
        """Return L_n = mean((prediction_n − target_n)²) of each sample, (N,)."""
        n = len(prediction)
        difference, losses = np.empty(prediction.shape, prediction.dtype), np.empty(n, prediction.dtype)
        a, b, found = (plain(x, prediction.dtype).reshape(n, -1) for x in (prediction, target, difference))
        share(lambda first, last: _squared_errors(a, b, found, losses, first, last), n, PASS * a.size)
        return losses, self._save(difference)

    def mse_backward(self, saved: Saved, dlosses: float | NDArray) -> NDArray:
        """Return dprediction of `mse`."""
        (difference,) = saved
        dprediction: NDArray = np.empty_like(difference)
        n = len(difference)
        found, out = difference.reshape(n, -1), dprediction.reshape(n, -1)
        each = plain(np.broadcast_to(np.asarray(dlosses, difference.dtype), n))
        share(lambda first, last: _error_gradient(found, each, out, first, last), n, PASS * found.size)
        return dprediction


@ahead("f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[::1], i8, i8")
@compiled
def _squared_errors(a: NDArray, b: NDArray, found: NDArray, losses: NDArray, first: int, last: int) -> None:
    """Write a − b to `found`, and the mean of its squares to `losses`, for samples `first` to below `last`."""
    for n in range(first, last):
        a_n, b_n, found_n = a[n], b[n], found[n]
        for i in range(len(a_n)):
            found_n[i] = a_n[i] - b_n[i]
        losses[n] = product_of(found_n, found_n) / len(found_n)


@ahead("f4[:, ::1], f4[::1], f4[:, ::1], i8, i8")
@compiled
def _error_gradient(found: NDArray, dlosses: NDArray, out: NDArray, first: int, last: int) -> None:
    """Write dlosses_n · 2 found_n / size to `out` for samples `first` to below `last`."""
    for n in range(first, last):
        found_n, out_n = found[n], out[n]
        share = dlosses[n] * found.dtype.type(2 / len(found_n))
        for i in range(len(found_n)):
            out_n[i] = found_n[i] * share
