"""Operations for CuPy on an NVIDIA GPU: the reference's, with kernels of their own where many passes become one.

A kernel takes float32 or bfloat16; whatever else comes (float64, empty arrays) goes to the reference.
"""

from __future__ import annotations

from math import prod

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.backend.workers import parts
from tinyddpm.ops.base import Saved
from tinyddpm.ops.convolution import same_padding
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.norms import CudaNorms

PATCHES = 1 << 29
"""Bytes of patches that are gathered at a time."""


class CupyOperations(CudaNorms):
    """The reference operations on CuPy, with fused kernels for norms, activations, softmax, patches and the loss."""

    def conv2d(self, x: Array, w: Array, b: Array, stride: int = 1) -> tuple[Array, Saved]:
        """Return the convolution, of as many images at a time as their patches have room for."""
        cut = self._image_parts(x, w, stride)
        if len(cut) <= 1:
            return super().conv2d(x, w, b, stride)
        y = self.xp.concat([super(CupyOperations, self).conv2d(x[part], w, b, stride)[0] for part in cut], axis=0)
        return y, self._save(x, w, stride)

    def conv2d_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dw, db), of as many images at a time as their patches have room for."""
        x, w, stride = saved
        cut = self._image_parts(x, w, stride)
        if len(cut) <= 1:
            return super().conv2d_backward(saved, dy)
        dx = self.xp.empty_like(x)
        dw, db = self.xp.zeros_like(w), self.xp.zeros_like(w[0, 0, 0])
        for part in cut:
            dx[part], dw_part, db_part = super().conv2d_backward((x[part], w, stride), dy[part])
            dw += dw_part
            db += db_part
        return dx, dw, db

    def silu(self, x: Array) -> tuple[Array, Saved]:
        """Return x σ(x) by one kernel."""
        if not self._takes(x):
            return super().silu(x)
        x = self.xp.ascontiguousarray(x)
        return self._elementwise("activation", "silu_forward", x), self._save(x)

    def silu_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx of `silu` by one kernel."""
        (x,) = saved
        if not self._takes(x, dy):
            return super().silu_backward(saved, dy)
        return self._elementwise("activation", "silu_backward", x, self.xp.ascontiguousarray(dy))

    def attention(self, q: Array, k: Array, v: Array, heads: int = 1) -> tuple[Array, Saved]:
        """Return the attention, what lies between its two products by one kernel."""
        if not self._takes(q, k, v):
            return super().attention(q, k, v, heads)
        q, k, v = (self._split(a, heads) for a in (q, k, v))
        p = self._rows("softmax_forward", q.shape[-1] ** -0.5, q @ self.xp.matrix_transpose(k))
        return self._merge(p @ v), self._save(q, k, v, p)

    def attention_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dq, dk, dv), the softmax's derivative by one kernel."""
        q, k, v, p = saved
        if not self._takes(p, dy):
            return super().attention_backward(saved, dy)
        dy = self._split(dy, q.shape[1])
        dv = self.xp.matrix_transpose(p) @ dy
        dp = dy @ self.xp.matrix_transpose(v)
        ds = self._rows("softmax_backward", q.shape[-1] ** -0.5, p, dp)
        dq, dk = ds @ k, self.xp.matrix_transpose(ds) @ q
        return self._merge(dq), self._merge(dk), self._merge(dv)

    def mse(self, prediction: Array, target: Array) -> tuple[Array, Saved]:
        """Return the loss: differences and sums of their squares by one kernel, the sum of the sums by another."""
        if not self._takes(prediction, target) or prediction.shape != target.shape:
            return super().mse(prediction, target)
        prediction, target = self.xp.ascontiguousarray(prediction), self.xp.ascontiguousarray(target)
        difference, storage = self.xp.empty_like(prediction), str(prediction.dtype)
        sums, size = geometry.partial_sums(prediction.size), np.int64(prediction.size)
        partial, loss = self._empty(sums.grid, self.xp.float32), self._empty((), prediction.dtype)
        self._kernels.launch("loss", "squared_error", storage, sums, prediction, target, difference, partial, size)
        self._kernels.launch(
            "loss", "mean_of_partial", storage, geometry.one_block(), partial, loss, partial.shape[0], size
        )
        return loss, self._save(difference)

    def mse_backward(self, saved: Saved, dloss: float = 1.0) -> Array:
        """Return dprediction by one kernel."""
        (difference,) = saved
        if not self._takes(difference) or not isinstance(dloss, float):
            return super().mse_backward(saved, dloss)
        return self._elementwise("loss", "error_gradient", difference, options=(2.0 * dloss / difference.size,))

    def _masked(self, x: Array, keep: Array, rate: float) -> Array:
        if not self._takes(x) or keep.shape != x.shape:
            return super()._masked(x, keep, rate)
        x, keep = self.xp.ascontiguousarray(x), self.xp.ascontiguousarray(keep)
        return self._elementwise("activation", "dropout", x, keep, options=(1.0 - rate,))

    def _doubled(self, x: Array) -> Array:
        if not self._takes(x):
            return super()._doubled(x)
        n, height, width, c = x.shape
        fine = self._empty((n, 2 * height, 2 * width, c), x.dtype)
        where = geometry.pixels(n * height * width, c)
        self._launch("resampling", "doubled", where, self.xp.ascontiguousarray(x), fine, width, c)
        return fine

    def _squares_summed(self, x: Array) -> Array:
        if not self._takes(x):
            return super()._squares_summed(x)
        n, height, width, c = x.shape
        coarse = self._empty((n, height // 2, width // 2, c), x.dtype)
        where = geometry.pixels(n * (height // 2) * (width // 2), c)
        self._launch("resampling", "squares_summed", where, self.xp.ascontiguousarray(x), coarse, width // 2, c)
        return coarse

    def _patches(self, x: Array, kh: int, kw: int, stride: int) -> Array:
        if (kh, kw, stride) == (1, 1, 1) or not self._takes(x):
            return super()._patches(x, kh, kw, stride)
        n, height, width, c = x.shape
        rows, columns = -(-height // stride), -(-width // stride)
        patches = self._empty((n, rows, columns, kh * kw * c), x.dtype)
        where = geometry.pixels(n * rows * columns, kh * kw * c)
        window = _window(x.shape, kh, kw, stride)
        self._launch("convolution", "gather_patches", where, self.xp.ascontiguousarray(x), patches, *window)
        return patches

    def _patches_transposed(self, dpatches: Array, shape: tuple[int, ...], kh: int, kw: int, stride: int) -> Array:
        if (kh, kw, stride) == (1, 1, 1) or not self._takes(dpatches):
            return super()._patches_transposed(dpatches, shape, kh, kw, stride)
        dx = self._empty(shape, dpatches.dtype)
        where = geometry.pixels(prod(shape[:3]), shape[3])
        window = _window(shape, kh, kw, stride)
        self._launch("convolution", "sum_patches", where, self.xp.ascontiguousarray(dpatches), dx, *window)
        return dx

    def _rows(self, kernel: str, factor: float, *inputs: Array) -> Array:
        """Return what a kernel of the softmax family makes of rows."""
        inputs = tuple(self.xp.ascontiguousarray(a) for a in inputs)
        out = self._empty(inputs[0].shape, inputs[0].dtype)
        rows, length = prod(out.shape[:-1]), out.shape[-1]
        self._launch("softmax", kernel, geometry.softmax_rows(rows), *inputs, out, factor, rows, length)
        return out

    def _image_parts(self, x: Array, w: Array, stride: int) -> list[slice]:
        """Return the slices of the batch whose patches are gathered at a time; one where there is nothing to gather."""
        n, height, width, c = x.shape
        kh, kw = w.shape[:2]
        if (kh, kw, stride) == (1, 1, 1):
            return [slice(0, n)]
        patches = n * -(-height // stride) * -(-width // stride) * kh * kw * c * x.dtype.itemsize
        return parts(n, -(-patches // PATCHES))


def _window(shape: tuple[int, ...], kh: int, kw: int, stride: int) -> tuple[int, ...]:
    """Return what the patch kernels are told: sizes of image and patches, kernel, stride, and padding before."""
    _, height, width, c = shape
    top, left = same_padding(height, kh, stride)[0], same_padding(width, kw, stride)[0]
    return height, width, c, -(-height // stride), -(-width // stride), kh, kw, stride, top, left
