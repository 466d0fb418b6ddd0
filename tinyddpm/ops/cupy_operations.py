"""Operations on CuPy arrays on an NVIDIA GPU: the reference's, with CUDA kernels that do many passes in one.

Kernels compute on non-empty float32 or bfloat16 arrays; for others, such as float64, the reference operation runs.
"""

from __future__ import annotations

from math import prod

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.ops.base import Saved
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.cudnn import CudnnConvolutions
from tinyddpm.ops.cuda.norms import CudaNorms
from tinyddpm.ops.cuda.training_ends import CudaTrainingEnds


class CupyOperations(CudnnConvolutions, CudaNorms, CudaTrainingEnds):
    """The reference operations on CuPy, with kernels for products, norms, activations, resampling and the loss."""

    def mse(self, prediction: Array, target: Array) -> tuple[Array, Saved]:
        """Return the losses by one kernel, with a block of threads per sample."""
        if not self._takes(prediction, target) or prediction.shape != target.shape:
            return super().mse(prediction, target)
        prediction, target = self.xp.ascontiguousarray(prediction), self.xp.ascontiguousarray(target)
        difference, losses = self.xp.empty_like(prediction), self._empty(prediction.shape[:1], prediction.dtype)
        n = prediction.shape[0]
        self._launch(
            "loss", "squared_error", geometry.blocks_that_sum(n), prediction, target, difference, losses,
            np.int64(prediction.size // n),
        )  # fmt: skip
        return losses, self._save(difference)

    def mse_backward(self, saved: Saved, dlosses: float | Array) -> Array:
        """Return dprediction, by one kernel if `dlosses` is one number."""
        (difference,) = saved
        if not self._takes(difference) or not isinstance(dlosses, float):
            return super().mse_backward(saved, dlosses)
        factor = 2.0 * dlosses * difference.shape[0] / difference.size
        return self._elementwise("loss", "error_gradient", difference, options=(factor,))

    def concat(self, a: Array, b: Array) -> tuple[Array, Saved]:
        """Return a and b concatenated along the channels, by one kernel."""
        if not self._takes(a, b):
            return super().concat(a, b)
        c_a, c_b = a.shape[-1], b.shape[-1]
        y = self._empty((*a.shape[:-1], c_a + c_b), a.dtype)
        pixels, lanes = prod(a.shape[:-1]), geometry.lanes(a.dtype.itemsize, c_a, c_b)
        where = geometry.rows(pixels, c_a + c_b, lanes)
        self._launch("channels", "joined", where, *map(self.xp.ascontiguousarray, (a, b)), y, pixels, c_a, c_b, lanes)
        return y, self._save(c_a)

    def concat_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array]:
        """Return (da, db) by one kernel, both contiguous, as other kernels need them."""
        if not self._takes(dy):
            return super().concat_backward(saved, dy)
        (c_a,), (*shape, c) = saved, dy.shape
        da, db = (self._empty((*shape, width), dy.dtype) for width in (c_a, c - c_a))
        pixels, lanes = prod(shape), geometry.lanes(dy.dtype.itemsize, c_a, c - c_a)
        where = geometry.rows(pixels, c, lanes)
        self._launch("channels", "cut", where, self.xp.ascontiguousarray(dy), da, db, pixels, c_a, c - c_a, lanes)
        return da, db

    def _doubled(self, x: Array) -> Array:
        if not self._takes(x):
            return super()._doubled(x)
        n, height, width, c = x.shape
        fine = self._empty((n, 2 * height, 2 * width, c), x.dtype)
        self._resample("doubled", x, fine, coarse=x)
        return fine

    def _squares_summed(self, x: Array) -> Array:
        if not self._takes(x):
            return super()._squares_summed(x)
        n, height, width, c = x.shape
        coarse = self._empty((n, height // 2, width // 2, c), x.dtype)
        self._resample("squares_summed", x, coarse, coarse=coarse)
        return coarse

    def _resample(self, kernel: str, x: Array, y: Array, coarse: Array) -> None:
        """Launch a kernel that reads x and writes y; `coarse` is the one of the two with the lower resolution."""
        n, height, width, c = coarse.shape
        pixels, lanes = n * height * width, geometry.lanes(x.dtype.itemsize, c)
        where = geometry.rows(pixels, c, lanes)
        self._launch("resampling", kernel, where, self.xp.ascontiguousarray(x), y, width, c, pixels, lanes)
