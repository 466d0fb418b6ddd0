"""Convolution in compiled code, by what costs least for the shape."""

from __future__ import annotations

from functools import cache

import numpy as np

from tinyddpm.ops.base import Saved
from tinyddpm.ops.cpu.blocks import NDArray, sum_over_rows
from tinyddpm.ops.cpu.convolution import NARROWEST, CpuConvolution
from tinyddpm.ops.cpu.winograd import tiles
from tinyddpm.ops.numba import patches, winograd
from tinyddpm.ops.numba.products import panel_width

TO_V, FROM_M, TO_U = 192, 140, 410
"""What a tile's channel costs on the way in and out of Winograd's products, and a weight, in multiply-adds of those."""

SHORT = 1.25
"""What a product costs whose rows are an image's, and whose sums are read again for each row of the kernel."""

ADDED = 500
"""What adding a register of a patch to an image costs, in multiply-adds of a product."""


class NumbaConvolution(CpuConvolution):
    """Convolution of NHWC images of float32 or float64."""

    def conv2d_costs(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int = 1) -> dict[str, float]:
        """Return what each algorithm that can do this convolution would cost, in 10⁹ multiply-adds of float32.

        What is modelled is one forward; Winograd's weights are transformed for each in training alone.
        """
        return dict(_costs(x_shape, w_shape, stride, self.training))

    def conv2d(
        self, x: NDArray, w: NDArray, b: NDArray, stride: int = 1, residual: NDArray | None = None
    ) -> tuple[NDArray, Saved]:
        """Return the convolution, by the algorithm that costs least. Saved are x and w."""
        algorithm = self._algorithm(x, w, stride)
        u = self._transformed_weights(w) if algorithm == "winograd" else None
        x, w, b = _plain(x), _plain(w), _plain(b)
        residual = None if residual is None else _plain(residual)
        if u is not None:
            y = winograd.convolve(x, u, b, residual)
        elif algorithm == "patches of y":
            y = patches.convolve_to_few(x, w, b, residual)
        else:
            y = patches.convolve(x, w, b, stride, residual)
        return y, self._save(x, w, stride)

    def conv2d_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dw, db): by Winograd's products unless x or y has few channels."""
        x, w, stride = saved
        dy = _plain(dy)
        if _fits_winograd(w.shape, stride):
            return winograd.convolve_backward(x, w, dy)
        return *patches.convolve_backward(x, w, dy, stride), sum_over_rows(dy.reshape(-1, w.shape[3]))[0]

    def _transform(self, w: NDArray) -> NDArray:
        return winograd.transformed(_plain(w))


@cache
def _costs(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, training: bool) -> dict[str, float]:
    n, height, width, c_in = x_shape
    kh, kw, _, c_out = w_shape
    pixels = n * -(-height // stride) * -(-width // stride)
    costs = {"rows of patches": SHORT * pixels * kh * kw * c_in * _whole_panels(c_out)}
    if stride == 1 and kh % 2 and kw % 2:
        added = kh * _whole_panels(kw * c_out) // _whole_panels(1) * ADDED
        costs["patches of y"] = pixels * (c_in * _whole_panels(kh * kw * c_out) + added)
    if _fits_winograd(w_shape, stride):
        rows, columns = tiles(height, width)
        each = 36 * c_in * _whole_panels(c_out) + TO_V * c_in + FROM_M * c_out
        costs["winograd"] = n * rows * columns * each + (TO_U * c_in * c_out if training else 0)
    return {name: cost / 1e9 for name, cost in costs.items()}


def _fits_winograd(w_shape: tuple[int, ...], stride: int) -> bool:
    return (*w_shape[:2], stride) == (3, 3, 1) and min(w_shape[2:]) >= NARROWEST


def _whole_panels(columns: int) -> int:
    """Return the columns of the panels that hold so many, of float32."""
    width = panel_width(4)
    return -(-columns // width) * width


def _plain(a: NDArray) -> NDArray:
    """Return an array, or a copy, that is contiguous and may be written to: the one kind that is compiled for."""
    return a if a.flags.carray else np.require(a, requirements=["C", "W"])
