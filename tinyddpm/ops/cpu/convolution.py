"""Convolution by the cheapest algorithm for its shape: Winograd's, or products of patches, gathered in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinyddpm.backend import Backend
from tinyddpm.ops.base import Saved
from tinyddpm.ops.convolution import Convolution, same_padding
from tinyddpm.ops.cpu import winograd
from tinyddpm.ops.cpu.blocks import NDArray, added, sum_over_rows

PATCHES = 1 << 19
"""Bytes of patches that are gathered at once: few enough to be still in the cache when they are multiplied."""

GATHERED, WRITTEN = 16, 30
"""Cost of moving a number into a patch or tile, and back into an image, in multiply-adds of a matrix product."""

NARROWEST = 16
"""Least number of input and output channels for Winograd: narrower products do not reach the BLAS's full speed."""


class CpuConvolution(Convolution):
    """Convolution of NHWC images."""

    def __init__(self, backend: Backend, training: bool = False) -> None:
        super().__init__(backend, training)
        self._own: dict[int, NDArray] = {}  # arrays of `weights` by id; keeping them keeps their ids valid
        self._transformed: dict[int, NDArray] = {}

    def weights(self, buffer: NDArray, shapes: Sequence[tuple[int, ...]]) -> list[NDArray]:
        """Return the parameters; without training, views of a copy of the buffer, whose Winograd transforms are cached.

        A later change of the buffer changes neither; a further call renews both.
        """
        if self.training:
            return super().weights(buffer, shapes)
        found = super().weights(buffer.copy(), shapes)
        self._own, self._transformed = {id(w): w for w in found}, {}
        return found

    def conv2d_costs(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int = 1) -> dict[str, float]:
        """Return the cost of each applicable algorithm, in 10⁹ multiply-adds of a large matrix product.

        This is a model of one forward: products, transforms, and numbers moved. A backward costs about twice as much.
        """
        n, height, width, c_in = x_shape
        kh, kw, _, c_out = w_shape
        pixels = n * -(-height // stride) * -(-width // stride)
        patch = kh * kw * c_in
        gathered = 0 if (kh, kw, stride) == (1, 1, 1) else GATHERED
        costs = {"patches": pixels * patch * (c_out + gathered)}
        if (kh, kw, stride) == (3, 3, 1) and min(c_in, c_out) >= NARROWEST:
            rows, columns = winograd.tiles(height, width)
            transforms = 36 * 36 * c_in + 36 * 16 * c_out
            moved = GATHERED * 36 * c_in + WRITTEN * 16 * c_out
            weights = c_in * c_out * 36 * (9 + 2 * WRITTEN)
            costs["winograd"] = n * rows * columns * (transforms + 36 * c_in * c_out + moved) + weights
        return {name: cost / 1e9 for name, cost in costs.items()}

    def conv2d(
        self, x: NDArray, w: NDArray, b: NDArray, stride: int = 1, residual: NDArray | None = None
    ) -> tuple[NDArray, Saved]:
        """Return the convolution by the cheapest algorithm. Winograd saves V instead of x.

        A residual is added block by block, while y is in the cache.
        """
        if self._algorithm(x, w, stride) == "winograd":
            y, v = winograd.convolve(x, self._transformed_weights(w), b, self.training, residual)
            return y, self._save("winograd", v, w, stride)
        kh, kw, _, c_out = w.shape
        n, height, width, _ = x.shape
        y = np.empty((n, -(-height // stride), -(-width // stride), c_out), x.dtype)
        for part, patches in _patch_blocks(x, kh, kw, stride):
            out = y[part].reshape(-1, c_out)
            np.matmul(patches, w.reshape(-1, c_out), out=out)
            out += b
            if residual is not None:
                y[part] += residual[part]
        return y, self._save("patches", x, w, stride)

    def conv2d_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dw, db) of `conv2d`, by the algorithm of the forward."""
        algorithm, x, w, stride = saved
        kh, kw, c_in, c_out = w.shape
        dy = np.ascontiguousarray(dy)
        db = sum_over_rows(dy.reshape(-1, c_out))[0]
        if algorithm == "winograd":
            return *winograd.convolve_backward(x, w, dy), db
        gathers_dy = stride == 1 and kh % 2 and kw % 2 and c_out <= c_in
        return *(_from_patches_of_dy(x, w, dy) if gathers_dy else self._from_patches_of_x(x, w, dy, stride)), db

    def _from_patches_of_x(self, x: NDArray, w: NDArray, dy: NDArray, stride: int) -> tuple[NDArray, NDArray]:
        """Return dx = Pᵀ(dy Wᵀ) and dw = P(x)ᵀ dy as the reference does, a few images at a time."""
        kh, kw, _, c_out = w.shape
        w_t = np.ascontiguousarray(w.reshape(-1, c_out).T)
        dw: NDArray | None = None
        dx = np.empty(x.shape, x.dtype)
        for part, patches in _patch_blocks(x, kh, kw, stride):
            dy_part = dy[part]
            dy_flat = dy_part.reshape(-1, c_out)
            dw = added(dw, patches.T @ dy_flat)
            dpatches = (dy_flat @ w_t).reshape(*dy_part.shape[:3], -1)
            dx[part] = self._patches_transposed(dpatches, x[part].shape, kh, kw, stride)
        return dx, cast(NDArray, dw).reshape(w.shape)

    def _algorithm(self, x: NDArray, w: NDArray, stride: int) -> str:
        costs = self.conv2d_costs(x.shape, w.shape, stride)
        return min(costs, key=costs.__getitem__)

    def _transformed_weights(self, w: NDArray) -> NDArray:
        """Return Winograd's U of w, cached if w is one of the copies that `weights` returned."""
        if id(w) not in self._own:
            return self._transform(w)
        if id(w) not in self._transformed:
            self._transformed[id(w)] = self._transform(w)
        return self._transformed[id(w)]

    def _transform(self, w: NDArray) -> NDArray:
        return winograd.transformed(w)


def _from_patches_of_dy(x: NDArray, w: NDArray, dy: NDArray) -> tuple[NDArray, NDArray]:
    """Return dx and dw at stride 1, for a kernel of odd sides, from patches of dy: the smaller ones if c_out < c_in.

    dx is the convolution of dy with the kernel rotated by 180° and its channels swapped. Each pixel of x met each
    weight of the kernel once, for one of the outputs around it, so xᵀ P(dy) is dw, rotated by 180° as well.
    """
    kh, kw, c_in, c_out = w.shape
    turned = np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2)).reshape(-1, c_in)
    dw_turned: NDArray | None = None
    dx = np.empty(x.shape, x.dtype)
    for part, patches in _patch_blocks(dy, kh, kw, 1):
        np.matmul(patches, turned, out=dx[part].reshape(-1, c_in))
        dw_turned = added(dw_turned, x[part].reshape(-1, c_in).T @ patches)
    return dx, cast(NDArray, dw_turned).reshape(c_in, kh, kw, c_out)[:, ::-1, ::-1].transpose(1, 2, 0, 3)


def _image_blocks(n: int, bytes_each: int) -> Iterator[slice]:
    """Yield slices of n images, `bytes_each` of patches an image, whose patches fit the cache: PATCHES bytes."""
    images = max(1, min(n, PATCHES // max(1, bytes_each)))
    for start in range(0, n, images):
        yield slice(start, min(n, start + images))


def _patch_blocks(x: NDArray, kh: int, kw: int, stride: int) -> Iterator[tuple[slice, NDArray]]:
    """Yield slices of the batch with their patches, (pixels, kh·kw·C), in memory that the next block overwrites.

    In a padded NHWC image the kw pixels under a row of the kernel are adjacent: a patch is kh runs of kw·C numbers.
    """
    n, height, width, c = x.shape
    if (kh, kw, stride) == (1, 1, 1):
        yield slice(None), x.reshape(-1, c)
        return
    (top, bottom), (left, right) = same_padding(height, kh, stride), same_padding(width, kw, stride)
    rows, columns = -(-height // stride), -(-width // stride)
    blocks = list(_image_blocks(n, rows * columns * kh * kw * c * x.itemsize))
    images = blocks[0].stop
    padded = np.zeros((images, top + height + bottom, left + width + right, c), x.dtype)
    patches = np.empty((images, rows, columns, kh, kw * c), x.dtype)
    along_n, along_h, along_w, along_c = padded.strides
    strides = (along_n, stride * along_h, stride * along_w, along_h, along_c)
    runs: Any = as_strided(padded, patches.shape, strides, writeable=False)
    for part in blocks:
        count = part.stop - part.start
        padded[:count, top : top + height, left : left + width] = x[part]
        patches[:count] = runs[:count]
        yield part, patches[:count].reshape(-1, kh * kw * c)
