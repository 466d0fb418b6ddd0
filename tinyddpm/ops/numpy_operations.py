"""Operations for NumPy on a CPU: the reference's arithmetic in pieces that stay in the cache, and in fewer passes.

Each override says what it does differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinyddpm.ops import Operations, winograd
from tinyddpm.ops.base import Saved
from tinyddpm.ops.convolution import same_padding

NDArray = np.ndarray[Any, Any]

PATCHES = 1 << 19
"""Bytes of patches that are gathered before they are multiplied: they must still be in the cache by then."""

PIECE = 1 << 18
"""Elements that are taken through all passes of a norm before the next."""


class NumpyOperations(Operations):
    """The reference operations, with the two that take most of a training step in cache-sized pieces."""

    def conv2d(self, x: NDArray, w: NDArray, b: NDArray, stride: int = 1) -> tuple[NDArray, Saved]:
        """Return the convolution; stride 1 in blocks of images, 3×3 by Winograd's products where that pays.

        Otherwise patches are gathered for a few images at a time, so that the product reads them from the cache.
        """
        if w.shape[:2] == (3, 3) and stride == 1 and winograd.pays(x, w.shape[3]):
            y = winograd.convolve(x, w)
            y += b
            return y, self._save(x, w, stride)
        if stride != 1 or w.shape[:2] == (1, 1):
            return super().conv2d(x, w, b, stride)
        kh, kw, _, c_out = w.shape
        y = np.empty((*x.shape[:3], c_out), x.dtype)
        for part, patches in _patch_blocks(x, kh, kw):
            out = y[part].reshape(-1, c_out)
            np.matmul(patches, w.reshape(-1, c_out), out=out)
            out += b
        return y, self._save(x, w, stride)

    def conv2d_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dw, db); stride 1 in blocks of images, 3×3 by Winograd's products where that pays.

        Otherwise, dx = Pᵀ(dy Wᵀ) is itself a convolution: of dy, with the kernel turned by half a turn and its channels
        swapped. So its patches are gathered instead of its sums scattered.
        """
        x, w, stride = saved
        if w.shape[:2] == (3, 3) and stride == 1 and winograd.pays(x, w.shape[3]):
            return *winograd.convolve_backward(x, w, dy), dy.sum(axis=(0, 1, 2))
        if stride != 1 or w.shape[0] % 2 == 0 or w.shape[1] % 2 == 0 or w.shape[:2] == (1, 1):
            return super().conv2d_backward(saved, dy)
        kh, kw, c_in, c_out = w.shape
        dy = np.ascontiguousarray(dy)
        dw = np.zeros((kh * kw * c_in, c_out), w.dtype)
        for part, patches in _patch_blocks(x, kh, kw):
            dw += patches.T @ dy[part].reshape(-1, c_out)
        turned = np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2)).reshape(-1, c_in)
        dx = np.empty(x.shape, x.dtype)
        for part, patches in _patch_blocks(dy, kh, kw):
            np.matmul(patches, turned, out=dx[part].reshape(-1, c_in))
        return dx, dw.reshape(w.shape), dy.reshape(-1, c_out).sum(axis=0)

    def group_norm(
        self, x: NDArray, scale: NDArray, shift: NDArray, groups: int, eps: float = 1e-6
    ) -> tuple[NDArray, Saved]:
        """Return the group norm, a few samples at a time."""
        n, c = x.shape[0], x.shape[-1]
        y = np.empty(x.shape, x.dtype)
        mean, r = np.empty((2, n, *(1,) * (x.ndim - 2), c), x.dtype)
        for x_i, out, mean_i, r_i in _sample_blocks(x, y, mean, r):
            mean_i[...] = _group_mean(_pixel_mean(x_i), groups)
            np.subtract(x_i, mean_i, out=out)
            r_i[...] = (_group_mean(_pixel_mean(out * out), groups) + eps) ** -0.5
            out *= r_i * scale
            out += shift
        return y, self._save(x, mean, r, scale, groups)

    def group_norm_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dscale, dshift), a few samples at a time.

        The means of g = dy · scale and of g x̂ over pixels need only a = mean(dy) and b = mean(dy (x − μ)) per channel,
        which dscale and dshift are made of as well. What is left is linear in dy and in x − μ:

            dx = dy (r scale) − (x − μ) r² group mean(scale r b) − r group mean(scale a)
        """
        x, mean, r, scale, groups = saved
        pixels = prod(x.shape[1:-1])
        dx = np.empty(x.shape, x.dtype)
        dscale, dshift = np.zeros((2, x.shape[-1]), x.dtype)
        for x_i, dy_i, out, mean_i, r_i in _sample_blocks(x, dy, dx, mean, r):
            centred = x_i - mean_i
            a, b = _pixel_mean(dy_i), _pixel_mean(np.multiply(dy_i, centred, out=out))
            dshift += a.sum(axis=(0, 1)) * pixels
            dscale += (r_i * b).sum(axis=(0, 1)) * pixels
            centred *= r_i**2 * _group_mean(scale * r_i * b, groups)
            centred += r_i * _group_mean(scale * a, groups)
            np.multiply(dy_i, r_i * scale, out=out)
            out -= centred
        return dx, dscale, dshift


def _patch_blocks(x: NDArray, kh: int, kw: int) -> Iterator[tuple[slice, NDArray]]:
    """Yield slices of the batch with their patches at stride 1, (pixels, kh·kw·C), in memory that the next ones reuse.

    In a padded NHWC image the kw pixels that a kernel's row meets lie side by side: a patch is kh runs of kw·C numbers.
    """
    n, height, width, c = x.shape
    images = max(1, min(n, PATCHES // (height * width * kh * kw * c * x.itemsize)))
    (top, bottom), (left, right) = same_padding(height, kh, 1), same_padding(width, kw, 1)
    padded = np.zeros((images, top + height + bottom, left + width + right, c), x.dtype)
    patches = np.empty((images, height, width, kh, kw * c), x.dtype)
    along_n, along_h, along_w, along_c = padded.strides
    runs = as_strided(padded, patches.shape, (along_n, along_h, along_w, along_h, along_c), writeable=False)
    for start in range(0, n, images):
        count = min(images, n - start)
        padded[:count, top : top + height, left : left + width] = x[start : start + count]
        patches[:count] = runs[:count]
        yield slice(start, start + count), patches[:count].reshape(-1, kh * kw * c)


def _sample_blocks(*arrays: NDArray) -> Iterator[tuple[NDArray, ...]]:
    """Yield the arrays, (N, ..., C), in blocks of samples as (n, pixels, C), views where they are contiguous."""
    n, c = arrays[0].shape[0], arrays[0].shape[-1]
    flat = [array.reshape(n, -1, c) for array in arrays]
    samples = max(1, PIECE * n // arrays[0].size)
    for start in range(0, n, samples):
        yield tuple(array[start : start + samples] for array in flat)


def _pixel_mean(x: NDArray) -> NDArray:
    """Return the means of (n, pixels, C) over pixels, (n, 1, C), by a row of ones: the BLAS sums fastest."""
    mean: NDArray = np.full((1, x.shape[1]), 1 / x.shape[1], x.dtype) @ x
    return mean


def _group_mean(per_channel: NDArray, groups: int) -> NDArray:
    """Return, for each channel of (n, 1, C), the mean over its group."""
    n, _, c = per_channel.shape
    per_group = per_channel.reshape(n, 1, groups, c // groups).mean(axis=3)
    return np.repeat(per_group, c // groups, axis=2)
