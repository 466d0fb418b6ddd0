"""Doubling and halving of resolution, and concatenation: each number is read and written once."""

from __future__ import annotations

import numpy as np

from tinyddpm.ops.base import Saved
from tinyddpm.ops.numba.arrays import NDArray, plain
from tinyddpm.ops.numba.compiling import ahead, compiled
from tinyddpm.ops.numba.sharing import PASS, share
from tinyddpm.ops.resampling import Resampling


class NumbaResampling(Resampling):
    """Doubling and halving of NHWC images, and concatenation along channels."""

    def concat(self, a: NDArray, b: NDArray) -> tuple[NDArray, Saved]:
        """Return a and b concatenated along the channels."""
        c_a, c_b = a.shape[-1], b.shape[-1]
        y = np.empty((*a.shape[:-1], c_a + c_b), a.dtype)
        a, b, joined = plain(a).reshape(-1, c_a), plain(b, a.dtype).reshape(-1, c_b), y.reshape(-1, c_a + c_b)
        share(lambda first, last: _join(a, b, joined, first, last), len(joined), PASS * y.size)
        return y, self._save(c_a)

    def concat_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray]:
        """Return (da, db) of `concat`, both contiguous."""
        (c_a,), (*pixels, c) = saved, dy.shape
        da, db = np.empty((*pixels, c_a), dy.dtype), np.empty((*pixels, c - c_a), dy.dtype)
        joined, a, b = plain(dy).reshape(-1, c), da.reshape(-1, c_a), db.reshape(-1, c - c_a)
        share(lambda first, last: _cut(joined, a, b, first, last), len(joined), PASS * dy.size)
        return da, db

    def _doubled(self, x: NDArray) -> NDArray:
        n, height, width, c = x.shape
        y = np.empty((n, 2 * height, 2 * width, c), x.dtype)
        rows, doubled = plain(x).reshape(n * height, width, c), y.reshape(n * height, 4 * width * c)
        share(lambda first, last: _double(rows, doubled, first, last), n * height, PASS * y.size)
        return y

    def _squares_summed(self, x: NDArray) -> NDArray:
        n, height, width, c = x.shape
        y = np.empty((n, height // 2, width // 2, c), x.dtype)
        pairs, summed = plain(x).reshape(n * height // 2, 2 * width * c), y.reshape(n * height // 2, width // 2, c)
        share(lambda first, last: _sum_squares(pairs, summed, first, last), len(summed), PASS * x.size)
        return y


@ahead("f4[:, ::1], f4[:, ::1], f4[:, ::1], i8, i8")
@compiled
def _join(a: NDArray, b: NDArray, joined: NDArray, first: int, last: int) -> None:
    """Write the channels of a and then those of b to pixels `first` to below `last` of `joined`."""
    c_a = a.shape[1]
    for pixel in range(first, last):
        a_p, b_p, left, right = a[pixel], b[pixel], joined[pixel, :c_a], joined[pixel, c_a:]
        for i in range(len(a_p)):
            left[i] = a_p[i]
        for i in range(len(b_p)):
            right[i] = b_p[i]


@ahead("f4[:, ::1], f4[:, ::1], f4[:, ::1], i8, i8")
@compiled
def _cut(joined: NDArray, a: NDArray, b: NDArray, first: int, last: int) -> None:
    """Split pixels `first` to below `last` of `joined` into a and b."""
    c_a = a.shape[1]
    for pixel in range(first, last):
        a_p, b_p, left, right = a[pixel], b[pixel], joined[pixel, :c_a], joined[pixel, c_a:]
        for i in range(len(a_p)):
            a_p[i] = left[i]
        for i in range(len(b_p)):
            b_p[i] = right[i]


@ahead("f4[:, :, ::1], f4[:, ::1], i8, i8")
@compiled
def _double(x: NDArray, doubled: NDArray, first: int, last: int) -> None:
    """Write each pixel of rows `first` to below `last` of x to a 2×2 square; a row of `doubled` holds two rows of y."""
    width, c = x.shape[1:]
    row = 2 * width * c
    for n in range(first, last):
        for pixel in range(width):
            x_p, twice = x[n, pixel], doubled[n, 2 * pixel * c : 2 * (pixel + 1) * c]
            below = doubled[n, row + 2 * pixel * c : row + 2 * (pixel + 1) * c]
            for start in (0, c):
                for i in range(c):
                    twice[start + i] = x_p[i]
                    below[start + i] = x_p[i]


@ahead("f4[:, ::1], f4[:, :, ::1], i8, i8")
@compiled
def _sum_squares(pairs: NDArray, summed: NDArray, first: int, last: int) -> None:
    """Write the sums over 2×2 squares; a row of `pairs` holds two rows of the image, one after the other."""
    width, c = summed.shape[1:]
    row = pairs.shape[1] // 2
    for n in range(first, last):
        for pixel in range(width):
            out, start = summed[n, pixel], 2 * pixel * c
            above, below = pairs[n, start : start + 2 * c], pairs[n, row + start : row + start + 2 * c]
            for i in range(c):
                out[i] = (above[i] + below[i]) + (above[c + i] + below[c + i])
