"""Convolution, linear maps, embeddings and attention, by the products of `convolution.cu`, `gemm.cu` and `sums.cu`.

Kernels read a convolution's weights as (C_out, kh, kw, C_in). `weights` copies all weights of a network to this order
by one launch, and returns views with the axes that operations expect, (kh, kw, C_in, C_out).

Activations and matrices are float32 or bfloat16. Biases, gradients of parameters and sums are float32. No operation
waits for the device, reads a number from it or calls a library, so all can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from tinyddpm.backend import Array, Backend
from tinyddpm.ops.base import Saved, cut
from tinyddpm.ops.convolution import same_padding
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.launching import Launching, Places


class Convolved(NamedTuple):
    """Residuals of a convolution or a linear map: x is (N, H, W, C_in), `kernel` is (C_out, kh, kw, C_in)."""

    x: Array
    kernel: Array
    stride: int


class Attended(NamedTuple):
    """Residuals of attention: q is (N, L, C), k and v are (N, M, C), p is (N, heads, L, M)."""

    q: Array
    k: Array
    v: Array
    p: Array
    heads: int


class CudaProducts(Launching):
    """The operations that are matrix products.

    A subclass may compute the products otherwise by overriding `_convolve`, `_convolve_dx`, `_convolve_dw` and
    `_multiply`. Their arguments are contiguous arrays, weights as (C_out, kh, kw, C_in); the factors of a product have
    one dtype, float32 or bfloat16.
    """

    def __init__(self, backend: Backend, training: bool = False) -> None:
        super().__init__(backend, training)
        self._tiles: dict[tuple[tuple[int, ...], ...], Array] = {}

    def weights(self, buffer: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Return the parameters: vectors as views of the buffer, the others as views of its packed copy."""
        if str(buffer.dtype) != "float32":
            return super().weights(buffer, shapes)
        packed = self._packed(buffer, tuple(shapes))
        turned = cut(self.xp, packed, [_turned(shape) for shape in shapes])
        return [
            vector if vector.ndim == 1 else self.xp.permute_dims(matrix, (*range(1, matrix.ndim), 0))
            for vector, matrix in zip(cut(self.xp, buffer, shapes), turned, strict=True)
        ]

    def _packed(self, buffer: Array, shapes: tuple[tuple[int, ...], ...]) -> Array:
        """Return a copy of the buffer in the storage dtype, in which the last axis of each matrix comes first."""
        if shapes not in self._tiles:
            self._tiles[shapes] = self.backend.asarray(geometry.pack_tiles(shapes))
        tiles = self._tiles[shapes]
        packed = self._empty(buffer.shape, self.backend.storage)
        self._kernels.launch(
            "packing", "packed_parameters", str(packed.dtype), geometry.tiles_of_32(len(tiles)), buffer, packed, tiles
        )
        return packed

    def conv2d(
        self, x: Array, w: Array, b: Array, stride: int = 1, residual: Array | None = None
    ) -> tuple[Array, Saved]:
        """Return the convolution by one kernel, which adds bias and residual to its sums before it rounds them."""
        if not self._takes(x, w):
            return super().conv2d(x, w, b, stride, residual)
        x, kernel = self.xp.ascontiguousarray(x), self.xp.ascontiguousarray(self.xp.permute_dims(w, (3, 0, 1, 2)))
        if residual is not None:
            residual = self._as_contiguous(residual, x)
        y = self._convolve(x, kernel, self._bias(b), stride, residual)
        return y, Convolved(x, kernel, stride) if self.training else None

    def conv2d_backward(
        self, saved: Saved, dy: Array, into: Places = None, added: tuple[Array, ...] = ()
    ) -> tuple[Array, Array, Array]:
        """Return (dx, dw, db) of `conv2d`; repeated runs give the same bits.

        dw and db that are written to `into` may be computed beside what follows: the next layer back needs dx alone.
        """
        if not isinstance(saved, Convolved):
            return self._stored(super().conv2d_backward(saved, dy), into, added)
        x, kernel, stride = saved
        dy = self._as_contiguous(dy, x)
        dx = self._convolve_dx(dy, kernel, x.shape, stride, self._sum(added, x))
        if into is None:
            self.backend.join()  # dw's kernels share counters
            return dx, *self._convolve_dw(x, dy, kernel.shape, stride)
        with self.backend.beside(x, dy):
            return dx, *self._convolve_dw(x, dy, kernel.shape, stride, into)

    def linear(self, x: Array, w: Array, b: Array, residual: Array | None = None) -> tuple[Array, Saved]:
        """Return the linear map, as a 1×1 convolution."""
        if not self._takes(x, w):
            return super().linear(x, w, b, residual)
        image, turned = self._image(x), self.xp.ascontiguousarray(self.xp.permute_dims(w, (1, 0)))
        kernel = self.xp.reshape(turned, (w.shape[1], 1, 1, w.shape[0]))
        if residual is not None:
            residual = self._image(self._as_contiguous(residual, x))
        y = self.xp.reshape(self._convolve(image, kernel, self._bias(b), 1, residual), (*x.shape[:-1], w.shape[1]))
        return y, Convolved(image, kernel, 1) if self.training else None

    def linear_backward(
        self, saved: Saved, dy: Array, into: Places = None, added: tuple[Array, ...] = ()
    ) -> tuple[Array, Array, Array]:
        """Return (dx, dw, db) of `linear`; repeated runs give the same bits."""
        if not isinstance(saved, Convolved):
            return self._stored(super().linear_backward(saved, dy), into, added)
        shape = (*dy.shape[:-1], saved.x.shape[-1])
        taps = None if into is None else (into[0][None, None], into[1])
        dx, dw, db = self.conv2d_backward(saved, self._image(dy), taps, tuple(map(self._image, added)))
        return self.xp.reshape(dx, shape), *(into or (dw[0, 0], db))

    def embedding_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dtable; each element is summed over samples in their order, so repeated runs give the same bits."""
        index, rows = saved
        if not self._takes(dy) or str(index.dtype) != "int64":
            return super().embedding_backward(saved, dy)
        dy, index = self.xp.ascontiguousarray(dy), self.xp.ascontiguousarray(index)
        dtable = self._empty((rows, dy.shape[1]), self.xp.float32)
        where, size = geometry.elements(dtable.size), np.int64(dtable.size)
        self._launch("sums", "embedding_backward", where, dy, index, dtable, *dy.shape, size)
        return dtable

    def attention(self, q: Array, k: Array, v: Array, heads: int = 1, mask: Array | None = None) -> tuple[Array, Saved]:
        """Return the attention by two products and the softmax between them; heads are not separated in memory."""
        if not self._takes(q, k, v):
            return super().attention(q, k, v, heads, mask)
        q, k, v = (self.xp.ascontiguousarray(a) for a in (q, *self._without_masked(k, v, mask)))
        s = self._multiply("abt", q, k, (q.shape[0], heads, q.shape[1], k.shape[1]), heads)
        there = None if mask is None else self.xp.ascontiguousarray(mask)
        p = self._softmax_rows("softmax_forward", (q.shape[-1] // heads) ** -0.5, s, mask=(there, heads * q.shape[1]))
        y = self._multiply("ab", p, v, q.shape, heads)
        return y, Attended(q, k, v, p, heads) if self.training else None

    def attention_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dq, dk, dv) by four products and the softmax's backward between them."""
        if not isinstance(saved, Attended):
            return super().attention_backward(saved, dy)
        q, k, v, p, heads = saved
        dy = self._as_contiguous(dy, q)
        dv = self._multiply("atb", p, dy, v.shape, heads)
        dp = self._multiply("abt", dy, v, p.shape, heads)
        ds = self._softmax_rows("softmax_backward", (q.shape[-1] // heads) ** -0.5, p, dp)
        dq = self._multiply("ab", ds, k, q.shape, heads)
        dk = self._multiply("atb", ds, q, k.shape, heads)
        return dq, dk, dv

    def _convolve(self, x: Array, kernel: Array, b: Array, stride: int, residual: Array | None = None) -> Array:
        """Return y of `conv2d`. The residual and y have x's dtype; b is float32."""
        window, shape = _window(x.shape, kernel.shape, stride), _output_shape(x.shape, kernel.shape, stride)
        y = self._empty(shape, x.dtype)
        pixels, c_in, c_out = prod(shape[:3]), x.shape[3], shape[3]
        where = geometry.product(pixels, c_out, 1, x.dtype.itemsize, self._kernels.shared_memory)
        self._launch_product(
            "convolution", "convolution_forward", where, x, kernel, b, residual, y, pixels, c_in, c_out, *window
        )
        return y

    def _convolve_dx(
        self, dy: Array, kernel: Array, x_shape: tuple[int, ...], stride: int, added: Array | None = None
    ) -> Array:
        """Return dx of `conv2d`, plus `added`. Both have dy's dtype."""
        dx = self._empty(x_shape, dy.dtype)
        pixels, c_in, c_out = prod(x_shape[:3]), x_shape[3], dy.shape[3]
        where = geometry.product(pixels, c_in, 1, dy.dtype.itemsize, self._kernels.shared_memory)
        window = _window(x_shape, kernel.shape, stride)
        self._launch_product(
            "convolution", "convolution_dx", where, dy, kernel, added, dx, pixels, c_in, c_out, *window
        )
        return dx

    def _convolve_dw(
        self, x: Array, dy: Array, kernel_shape: tuple[int, ...], stride: int, into: Places = None
    ) -> tuple[Array, Array]:
        """Return dw, (kh, kw, C_in, C_out), and db of `conv2d`, both float32, written to `into` if given."""
        c_out, kh, kw, c_in = kernel_shape
        pixels, window = prod(dy.shape[:3]), _window(x.shape, kernel_shape, stride)
        where, parts, each = geometry.split_product(
            c_in, c_out, kh * kw, pixels, x.dtype.itemsize, self._kernels.shared_memory
        )
        dw, db = into or self._parameter_gradients((kh, kw, c_in, c_out))
        to = (dw, db) if parts == 1 else self._parameter_gradients((parts, kh, kw, c_in, c_out))
        self._launch_product("convolution", "convolution_dw", where, x, dy, *to, pixels, c_in, c_out, *window, each)
        if parts > 1:
            self._launch(
                "sums", "sum_of_parts", geometry.elements(dw.size + c_out), *to, dw, db, parts, np.int64(dw.size), c_out
            )
        return dw, db

    def _parameter_gradients(self, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Return empty arrays for dw, (..., kh, kw, C_in, C_out), and db, (..., C_out)."""
        return self._empty(shape, self.xp.float32), self._empty((*shape[:-4], shape[-1]), self.xp.float32)

    def _multiply(self, wanted: str, a: Array, b: Array, shape: tuple[int, ...], heads: int) -> Array:
        """Return c: for each sample and head, the product of its two matrices.

        Arrays are (N, L, C), with the heads' channels side by side in C, or (N, heads, L, M).

        Args:
            wanted: "ab" for a b, "abt" for a bᵀ, "atb" for aᵀ b.
            a: contiguous.
            b: contiguous, of the same dtype.
            shape: shape of c.
            heads: number of heads.
        """
        c = self._empty(shape, a.dtype)
        (m, n), strides = _matrix(c, heads), [_strides(array, heads) for array in (a, b, c)]
        k = _matrix(a, heads)[0 if wanted == "atb" else 1]
        count = a.shape[0] * heads
        where = geometry.product(m, n, count, a.dtype.itemsize, self._kernels.shared_memory)
        flat = [number for stride in strides for number in stride]
        self._launch_product("gemm", f"product_{wanted}", where, a, b, c, m, n, k, heads, *flat)
        return c

    def _launch_product(
        self, family: str, kernel: str, where: geometry.Geometry, first: Array, *others: object
    ) -> None:
        """Launch a kernel of matrix products in the backend's precision."""
        rounds = self.backend.precision == "tf32" and str(first.dtype) == "float32"
        self._kernels.launch(family, kernel, "tf32" if rounds else str(first.dtype), where, first, *others)

    def _softmax_rows(
        self, kernel: str, factor: float, *inputs: Array, mask: tuple[Array | None, int] | None = None
    ) -> Array:
        """Return the result of a kernel of the softmax family on contiguous rows.

        `mask`, for the forward alone, is the mask of keys or None, and how many consecutive rows share a row of it.
        """
        out = self._empty(inputs[0].shape, inputs[0].dtype)
        rows, length = prod(out.shape[:-1]), out.shape[-1]
        self._launch("softmax", kernel, geometry.softmax_rows(rows), *inputs, out, factor, rows, length, *(mask or ()))
        return out

    def _bias(self, b: Array) -> Array:
        return self.xp.ascontiguousarray(self.xp.astype(b, self.xp.float32, copy=False))

    def _image(self, x: Array) -> Array:
        """Return x (N, ..., C) as contiguous images of one row, (N, 1, pixels, C)."""
        return self.xp.ascontiguousarray(self.xp.reshape(x, (x.shape[0], 1, -1, x.shape[-1])))


def _turned(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a parameter after its last axis is moved to the front."""
    return (shape[-1], *shape[:-1])


def _output_shape(x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int) -> tuple[int, ...]:
    n, height, width, _ = x_shape
    return n, -(-height // stride), -(-width // stride), kernel_shape[0]


def _window(x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int) -> tuple[int, ...]:
    """Return arguments of convolution kernels: sizes of image and output, kernel, stride, padding at top and left."""
    (_, height, width, _), (_, kh, kw, _) = x_shape, kernel_shape
    top, left = same_padding(height, kh, stride)[0], same_padding(width, kw, stride)[0]
    return height, width, *_output_shape(x_shape, kernel_shape, stride)[1:3], kh, kw, stride, top, left


def _matrix(a: Array, heads: int) -> tuple[int, int]:
    """Return (rows, columns) of the matrix of one sample and head."""
    return a.shape[-2], a.shape[-1] // (heads if a.ndim == 3 else 1)


def _strides(a: Array, heads: int) -> tuple[int, np.int64, np.int64]:
    """Return the distances between rows of a matrix, between samples, and between heads, in numbers."""
    rows, columns = a.shape[-2:]
    if a.ndim == 3:
        return columns, np.int64(rows * columns), np.int64(columns // heads)
    return columns, np.int64(heads * rows * columns), np.int64(rows * columns)
