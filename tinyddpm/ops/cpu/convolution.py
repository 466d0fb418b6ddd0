"""Convolution by what costs least for the shape: Winograd's products, patches in blocks, or a single product."""

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
"""Bytes of patches that are gathered before they are multiplied: they must still be in the cache by then."""

GATHERED, WRITTEN = 16, 30
"""What moving a number costs, in multiply-adds of a matrix product: into a patch or tile, or back into an image."""

NARROWEST = 16
"""Channels below which Winograd's products are too narrow to run at the BLAS's rate."""


class CpuConvolution(Convolution):
    """Convolution of NHWC images."""

    def __init__(self, backend: Backend, training: bool = False) -> None:
        super().__init__(backend, training)
        self._own: dict[int, NDArray] = {}  # the network's weights by id, which is theirs as long as they are kept
        self._transformed: dict[int, NDArray] = {}

    def weights(self, buffer: NDArray, shapes: Sequence[tuple[int, ...]]) -> list[NDArray]:
        """Return the parameters. Without training they are of a copy, and what Winograd makes of them is kept.

        What then changes the buffer changes neither; asked again, both are made anew.
        """
        if self.training:
            return super().weights(buffer, shapes)
        found = super().weights(buffer.copy(), shapes)
        self._own, self._transformed = {id(w): w for w in found}, {}
        return found

    def conv2d_costs(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int = 1) -> dict[str, float]:
        """Return what each algorithm that can do this convolution would cost, in 10⁹ multiply-adds of a large product.

        What is modelled is one forward: products, transforms, and numbers moved. A backward is about two of them.
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
        """Return the convolution, by the algorithm that costs least. Winograd's V is saved in the place of x.

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
        """Return (dx, dw, db), by the algorithm that made y."""
        algorithm, x, w, stride = saved
        kh, kw, c_in, c_out = w.shape
        dy = np.ascontiguousarray(dy)
        db = sum_over_rows(dy.reshape(-1, c_out))[0]
        if algorithm == "winograd":
            return *winograd.convolve_backward(x, w, dy), db
        gathers_dy = stride == 1 and kh % 2 and kw % 2 and c_out <= c_in
        return *(_from_patches_of_dy(x, w, dy) if gathers_dy else self._from_patches_of_x(x, w, dy, stride)), db

    def _from_patches_of_x(self, x: NDArray, w: NDArray, dy: NDArray, stride: int) -> tuple[NDArray, NDArray]:
        """Return dx = Pᵀ(dy Wᵀ) and dw = P(x)ᵀ dy, as the reference does, a few images at a time."""
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
        """Return Winograd's U, made once of what `weights` has copied."""
        if id(w) not in self._own:
            return self._transform(w)
        if id(w) not in self._transformed:
            self._transformed[id(w)] = self._transform(w)
        return self._transformed[id(w)]

    def _transform(self, w: NDArray) -> NDArray:
        return winograd.transformed(w)


def _from_patches_of_dy(x: NDArray, w: NDArray, dy: NDArray) -> tuple[NDArray, NDArray]:
    """Return dx and dw at stride 1, of an odd kernel, from the patches of dy, which are the smaller where c_out is.

    dx is a convolution of dy with the kernel turned by half a turn, its channels swapped. And each pixel of x met each
    of the kernel's weights once, for the outputs around it: dw, turned alike, is xᵀ P(dy).
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
    """Yield slices of n images whose patches, so many bytes each, fit the cache together."""
    images = max(1, min(n, PATCHES // max(1, bytes_each)))
    for start in range(0, n, images):
        yield slice(start, min(n, start + images))


def _patch_blocks(x: NDArray, kh: int, kw: int, stride: int) -> Iterator[tuple[slice, NDArray]]:
    """Yield slices of the batch with their patches, (pixels, kh·kw·C), in memory that the next ones reuse.

    In a padded NHWC image the kw pixels that a kernel's row meets lie side by side: a patch is kh runs of kw·C numbers.
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
