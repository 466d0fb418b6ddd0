"""Convolution, linear maps, embeddings and attention, by the products of `convolution.cu`, `gemm.cu` and `sums.cu`.

Activations and matrices are float32 or bfloat16, biases and the gradients of parameters float32; sums are float32. No
operation waits for the device, asks for a number of it or calls a library: all can be captured in a CUDA graph.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.ops.base import Saved
from tinyddpm.ops.convolution import same_padding
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.launching import Launching


class Attended(NamedTuple):
    """What attention keeps; q is (N, L, C), k and v are (N, M, C), p is (N, heads, L, M)."""

    q: Array
    k: Array
    v: Array
    p: Array
    heads: int


class CudaProducts(Launching):
    """The operations that are matrix products.

    A subclass may convolve in another way: `_convolve`, `_convolve_dx` and `_convolve_dw` are what it overrides. They
    take contiguous arrays, those that are multiplied of one type that kernels know. Linear maps stay as they are here.
    """

    def conv2d(
        self, x: Array, w: Array, b: Array, stride: int = 1, residual: Array | None = None
    ) -> tuple[Array, Saved]:
        """Return the convolution by one kernel, bias and residual added to its sums before they are rounded."""
        if not self._takes(x, w):
            return super().conv2d(x, w, b, stride, residual)
        x, w, b = self._factors(x, w, b)
        if residual is not None:
            residual = self._as_contiguous(residual, x)
        return self._convolve(x, w, b, stride, residual), self._save(x, w, stride)

    def conv2d_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dw, db), each the same at every run."""
        x, w, stride = saved
        if not self._takes(x, w):
            return super().conv2d_backward(saved, dy)
        dy = self._as_contiguous(dy, x)
        dx, dw = self._convolve_dx(dy, w, x.shape, stride), self._convolve_dw(x, dy, w.shape, stride)
        return dx, dw, self._column_sums(dy)

    def linear(self, x: Array, w: Array, b: Array, residual: Array | None = None) -> tuple[Array, Saved]:
        """Return the 1×1 convolution."""
        if not self._takes(x, w):
            return super().linear(x, w, b, residual)
        x, w, b = self._factors(x, w, b)
        if residual is not None:
            residual = self._image(self._as_contiguous(residual, x))
        y = self._convolve(self._image(x), w[None, None], b, 1, residual)
        return self.xp.reshape(y, (*x.shape[:-1], w.shape[1])), self._save(x, w)

    def linear_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dw, db), each the same at every run."""
        x, w = saved
        if not self._takes(x, w):
            return super().linear_backward(saved, dy)
        dy, image, kernel = self._image(self._as_contiguous(dy, x)), self._image(x), w[None, None]
        dx, dw = self._convolve_dx(dy, kernel, image.shape, 1), self._convolve_dw(image, dy, kernel.shape, 1)
        return self.xp.reshape(dx, x.shape), dw[0, 0], self._column_sums(dy)

    def embedding_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dtable, each of its elements the sum of its samples in their order."""
        index, rows = saved
        if not self._takes(dy) or str(index.dtype) != "int64":
            return super().embedding_backward(saved, dy)
        dy, index = self.xp.ascontiguousarray(dy), self.xp.ascontiguousarray(index)
        dtable = self._empty((rows, dy.shape[1]), self.xp.float32)
        where, size = geometry.elements(dtable.size), np.int64(dtable.size)
        self._launch("sums", "embedding_backward", where, dy, index, dtable, *dy.shape, size)
        return dtable

    def attention(self, q: Array, k: Array, v: Array, heads: int = 1) -> tuple[Array, Saved]:
        """Return the attention by two products and the softmax between them; heads stay side by side."""
        if not self._takes(q, k, v):
            return super().attention(q, k, v, heads)
        q, k, v = (self.xp.ascontiguousarray(a) for a in (q, k, v))
        s = self._empty((q.shape[0], heads, q.shape[1], k.shape[1]), q.dtype)
        self._multiply("product_abt", q, k, s, heads)
        p = self._softmax_rows("softmax_forward", (q.shape[-1] // heads) ** -0.5, s)
        y = self.xp.empty_like(q)
        self._multiply("product_ab", p, v, y, heads)
        return y, Attended(q, k, v, p, heads) if self.training else None

    def attention_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dq, dk, dv) by four products and the softmax's derivative between them."""
        if not isinstance(saved, Attended):
            return super().attention_backward(saved, dy)
        q, k, v, p, heads = saved
        dy = self._as_contiguous(dy, q)
        dq, dk, dv, dp = (self.xp.empty_like(a) for a in (q, k, v, p))
        self._multiply("product_atb", p, dy, dv, heads)
        self._multiply("product_abt", dy, v, dp, heads)
        ds = self._softmax_rows("softmax_backward", (q.shape[-1] // heads) ** -0.5, p, dp)
        self._multiply("product_ab", ds, k, dq, heads)
        self._multiply("product_atb", ds, q, dk, heads)
        return dq, dk, dv

    def _convolve(self, x: Array, w: Array, b: Array, stride: int, residual: Array | None = None) -> Array:
        """Return y of `conv2d`, of x's type, as is the residual; b is float32."""
        window, shape = _window(x.shape, w.shape, stride), _output_shape(x.shape, w.shape, stride)
        y = self._empty(shape, x.dtype)
        pixels, (c_in, c_out) = prod(shape[:3]), w.shape[2:]
        where = geometry.product(pixels, c_out, 1, x.dtype.itemsize, self._kernels.shared_memory)
        self._launch_product(
            "convolution", "convolution_forward", where, x, w, b, residual, y, pixels, c_in, c_out, *window
        )
        return y

    def _convolve_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], stride: int) -> Array:
        """Return dx of `conv2d`, of dy's type."""
        dx = self._empty(x_shape, dy.dtype)
        pixels, (c_in, c_out) = prod(x_shape[:3]), w.shape[2:]
        where = geometry.product(pixels, c_in, 1, dy.dtype.itemsize, self._kernels.shared_memory)
        window = _window(x_shape, w.shape, stride)
        self._launch_product("convolution", "convolution_dx", where, dy, w, dx, pixels, c_in, c_out, *window)
        return dx

    def _convolve_dw(self, x: Array, dy: Array, w_shape: tuple[int, ...], stride: int) -> Array:
        """Return dw of `conv2d`, float32."""
        kh, kw, c_in, c_out = w_shape
        pixels, window = prod(dy.shape[:3]), _window(x.shape, w_shape, stride)
        where, parts, each = geometry.split_product(
            c_in, c_out, kh * kw, pixels, x.dtype.itemsize, self._kernels.shared_memory
        )
        partial = self._empty((parts, *w_shape), self.xp.float32)
        self._launch_product(
            "convolution", "convolution_dw", where, x, dy, partial, pixels, c_in, c_out, *window, each
        )  # fmt: skip
        return self._sum_of_parts(partial)

    def _column_sums(self, x: Array) -> Array:
        """Return the sums of contiguous x over all axes but the last, float32."""
        channels = x.shape[-1]
        rows = x.size // channels
        where, each = geometry.column_sums(rows, channels)
        partial = self._empty((where.grid[1], channels), self.xp.float32)
        self._launch("sums", "column_sums", where, x, partial, rows, channels, each)
        return self._sum_of_parts(partial)

    def _sum_of_parts(self, partial: Array) -> Array:
        """Return the sum over the first axis, in order."""
        if partial.shape[0] == 1:
            return partial[0]
        total = self._empty(partial.shape[1:], self.xp.float32)
        where, size = geometry.elements(total.size), np.int64(total.size)
        self._launch("sums", "sum_of_parts", where, partial, total, partial.shape[0], size)
        return total

    def _multiply(self, kernel: str, a: Array, b: Array, c: Array, heads: int) -> None:
        """Write the products of all samples' and heads' matrices to c.

        A matrix is where its array has it: (N, L, C), the heads side by side in C, or (N, heads, L, M).
        """
        (m, n), strides = _matrix(c, heads), [_strides(array, heads) for array in (a, b, c)]
        k = _matrix(a, heads)[0 if kernel == "product_atb" else 1]
        count = a.shape[0] * heads
        where = geometry.product(m, n, count, a.dtype.itemsize, self._kernels.shared_memory)
        flat = [number for stride in strides for number in stride]
        self._launch_product("gemm", kernel, where, a, b, c, m, n, k, heads, *flat)

    def _launch_product(
        self, family: str, kernel: str, where: geometry.Geometry, first: Array, *others: object
    ) -> None:
        """Launch a kernel that multiplies, in the backend's precision."""
        rounds = self.backend.precision == "tf32" and str(first.dtype) == "float32"
        self._kernels.launch(family, kernel, "tf32" if rounds else str(first.dtype), where, first, *others)

    def _softmax_rows(self, kernel: str, factor: float, *inputs: Array) -> Array:
        """Return what a kernel of the softmax family makes of contiguous rows."""
        out = self._empty(inputs[0].shape, inputs[0].dtype)
        rows, length = prod(out.shape[:-1]), out.shape[-1]
        self._launch("softmax", kernel, geometry.softmax_rows(rows), *inputs, out, factor, rows, length)
        return out

    def _factors(self, x: Array, w: Array, b: Array) -> tuple[Array, Array, Array]:
        """Return x, w and b contiguous, b as float32."""
        b = self.xp.astype(b, self.xp.float32, copy=False)
        return self.xp.ascontiguousarray(x), self.xp.ascontiguousarray(w), self.xp.ascontiguousarray(b)

    def _image(self, x: Array) -> Array:
        """Return (..., C) as images of one row."""
        return self.xp.reshape(x, (x.shape[0], 1, -1, x.shape[-1]))

    def _as_contiguous(self, dy: Array, like: Array) -> Array:
        """Return dy in the type of another array, contiguous."""
        return self.xp.ascontiguousarray(self.xp.astype(dy, like.dtype, copy=False))


def _output_shape(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int) -> tuple[int, ...]:
    n, height, width, _ = x_shape
    return n, -(-height // stride), -(-width // stride), w_shape[3]


def _window(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int) -> tuple[int, ...]:
    """Return what the kernels of a convolution are told: sizes of image and output, kernel, stride, padding before."""
    (_, height, width, _), (kh, kw, _, _) = x_shape, w_shape
    top, left = same_padding(height, kh, stride)[0], same_padding(width, kw, stride)[0]
    return height, width, *_output_shape(x_shape, w_shape, stride)[1:3], kh, kw, stride, top, left


def _matrix(a: Array, heads: int) -> tuple[int, int]:
    """Return the sides of the matrix of one sample and head."""
    return a.shape[-2], a.shape[-1] // (heads if a.ndim == 3 else 1)


def _strides(a: Array, heads: int) -> tuple[int, np.int64, np.int64]:
    """Return the numbers between two rows of a matrix, two samples, and two heads."""
    rows, columns = a.shape[-2:]
    if a.ndim == 3:
        return columns, np.int64(rows * columns), np.int64(columns // heads)
    return columns, np.int64(heads * rows * columns), np.int64(rows * columns)
