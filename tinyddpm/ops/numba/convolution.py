"""Convolution in compiled code, by the cheapest algorithm for its shape."""

from __future__ import annotations

from functools import cache

from tinyddpm.ops.base import Saved
from tinyddpm.ops.cpu.blocks import NDArray, sum_over_rows
from tinyddpm.ops.cpu.convolution import NARROWEST, CpuConvolution
from tinyddpm.ops.cpu.winograd import tiles
from tinyddpm.ops.numba import patches, winograd
from tinyddpm.ops.numba.arrays import plain
from tinyddpm.ops.numba.products import panel_width

TO_V, FROM_M, TO_U = 192, 140, 410
"""Cost of transforming a tile into V and from M, per channel, and a weight into U, in multiply-adds of the products."""

SHORT = 1.25
"""Relative cost of products with rows of an image, which read their sums again for each row of the kernel."""

ADDED = 500
"""Cost of adding a panel's width of a patch to an image, in multiply-adds of a product."""


class NumbaConvolution(CpuConvolution):
    """Convolution of NHWC images in float32 or float64."""

    def conv2d_costs(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int = 1) -> dict[str, float]:
        """Return the cost of each applicable algorithm, in 10⁹ multiply-adds of float32.

        This is a model of one forward. It includes Winograd's transform of the weights in training alone: otherwise U
        is cached.
        """
        return dict(_costs(x_shape, w_shape, stride, self.training))

    def conv2d(
        self, x: NDArray, w: NDArray, b: NDArray, stride: int = 1, residual: NDArray | None = None
    ) -> tuple[NDArray, Saved]:
        """Return the convolution by the cheapest algorithm. Saved are x, w and the stride."""
        algorithm = self._algorithm(x, w, stride)
        u = self._transformed_weights(w) if algorithm == "winograd" else None
        x, w, b = plain(x), plain(w), plain(b)
        residual = None if residual is None else plain(residual)
        if u is not None:
            y = winograd.convolve(x, u, b, residual)
        elif algorithm == "patches of y":
            y = patches.convolve_to_few(x, w, b, residual)
        else:
            y = patches.convolve(x, w, b, stride, residual)
        return y, self._save(x, w, stride)

    def conv2d_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dw, db): by Winograd for 3×3 kernels at stride 1, unless x or y has few channels."""
        x, w, stride = saved
        dy = plain(dy)
        if _fits_winograd(w.shape, stride):
            return winograd.convolve_backward(x, w, dy)
        return *patches.convolve_backward(x, w, dy, stride), sum_over_rows(dy.reshape(-1, w.shape[3]))[0]

    def _transform(self, w: NDArray) -> NDArray:
        return winograd.transformed(plain(w))


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
    """Return `columns` rounded up to whole panels of float32."""
    width = panel_width(4)
    return -(-columns // width) * width
