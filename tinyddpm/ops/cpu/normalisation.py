"""Group norm and SiLU in blocks of samples: a block goes through all passes while it is in the cache."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np

from tinyddpm.ops.activation import Dropout
from tinyddpm.ops.base import Saved
from tinyddpm.ops.cpu.blocks import NDArray, in_rows, pixels_per_row, sample_blocks, sum_over_rows
from tinyddpm.ops.cpu.silu import SILU
from tinyddpm.ops.norm_activation import NormActivation
from tinyddpm.ops.normalisation import EPS


class CpuNormActivation(NormActivation):
    """Group norm, alone and followed by SiLU. The one large array saved is x; the others have a number per channel."""

    def group_norm(
        self, x: NDArray, scale: NDArray, shift: NDArray, groups: int, eps: float = EPS
    ) -> tuple[NDArray, Saved]:
        """Return the group norm of x."""
        n, c, together = x.shape[0], x.shape[-1], pixels_per_row(prod(x.shape[1:-1]), x.shape[-1])
        y = np.empty(x.shape, x.dtype)
        mean, r = np.empty((2, n, 1, c), x.dtype)
        for x_i, y_i, mean_i, r_i in sample_blocks(x, y, mean, r):
            _standardised(x_i, y_i, mean_i, r_i, groups, eps, together)
            rows = in_rows(y_i, together)
            rows *= _tiled(r_i * scale, together)
            rows += _tiled(np.broadcast_to(shift, (1, 1, c)), together)
        return y, self._save(x, mean, r, scale, groups)

    def group_norm_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dscale, dshift) of `group_norm`."""
        x, mean, r, scale, groups = saved
        together = pixels_per_row(prod(x.shape[1:-1]), x.shape[-1])
        dx = np.empty(x.shape, x.dtype)
        a, b = np.empty((2, *mean.shape), x.dtype)
        for x_i, dy_i, dx_i, mean_i, r_i, a_i, b_i in sample_blocks(x, dy, dx, mean, r, a, b):
            centred = in_rows(x_i, together) - _tiled(mean_i, together)
            np.copyto(dx_i, dy_i)
            _norm_backward(dx_i, centred, r_i, scale, groups, a_i, b_i, together)
        return dx, (r * b).sum(axis=(0, 1)), a.sum(axis=(0, 1))

    def group_norm_silu(
        self,
        x: NDArray,
        scale: NDArray,
        shift: NDArray,
        groups: int,
        modulation: tuple[NDArray, ...] = (),
        dropout: Dropout | None = None,
        eps: float = EPS,
    ) -> tuple[NDArray, Saved]:
        """Return dropout(silu(h)), h the modulated group norm: h = (x − μ) · slope + offset, per sample and channel.

        SiLU is computed from u = share · h, so the saved slope and offset include `Silu.share`. Dropout is a separate
        operation.
        """
        n, c, together = x.shape[0], x.shape[-1], pixels_per_row(prod(x.shape[1:-1]), x.shape[-1])
        y = np.empty(x.shape, x.dtype)
        mean, r, slope, offset = np.empty((4, n, 1, c), x.dtype)
        factor, constant = _affine(scale, shift, modulation)
        offset[...] = constant * SILU.share
        for x_i, y_i, mean_i, r_i, slope_i, offset_i, factor_i in sample_blocks(
            x, y, mean, r, slope, offset, np.broadcast_to(factor, mean.shape)
        ):
            _standardised(x_i, y_i, mean_i, r_i, groups, eps, together)
            np.multiply(r_i, factor_i * SILU.share, out=slope_i)
            u = in_rows(y_i, together)
            u *= _tiled(slope_i, together)
            u += _tiled(offset_i, together)
            SILU.forward(u)
        saved_dropout = None
        if dropout:
            y, saved_dropout = self.dropout(y, dropout)
        return y, self._save(x, mean, r, slope, offset, scale, shift, groups, modulation, saved_dropout)

    def group_norm_silu_backward(
        self, saved: Saved, dy: NDArray
    ) -> tuple[NDArray, NDArray, NDArray, tuple[NDArray, ...]]:
        """Return (dx, dscale, dshift, dmodulation) of `group_norm_silu`.

        Every gradient except dx follows from two sums per sample and channel, a = Σ dh and b = Σ dh (x − μ).
        """
        x, mean, r, slope, offset, scale, shift, groups, modulation, saved_dropout = saved
        dy = dy if saved_dropout is None else self.dropout_backward(saved_dropout, dy)
        together = pixels_per_row(prod(x.shape[1:-1]), x.shape[-1])
        dx = np.empty(x.shape, x.dtype)
        a, b = np.empty((2, *mean.shape), x.dtype)
        factor = np.broadcast_to(_affine(scale, shift, modulation)[0], mean.shape)
        for x_i, dy_i, dh_i, mean_i, r_i, slope_i, offset_i, factor_i, a_i, b_i in sample_blocks(
            x, dy, dx, mean, r, slope, offset, factor, a, b
        ):
            centred = in_rows(x_i, together) - _tiled(mean_i, together)
            u = centred * _tiled(slope_i, together)
            u += _tiled(offset_i, together)
            SILU.backward(u, in_rows(dy_i, together), in_rows(dh_i, together))
            _norm_backward(dh_i, centred, r_i, factor_i, groups, a_i, b_i, together)
        a, b = a[:, 0], (r * b)[:, 0]  # Σ dh and Σ dh x̂
        if not modulation:
            return dx, b.sum(axis=0), a.sum(axis=0), ()
        dnormed, dnormed_x_hat = a * (1 + modulation[0]), b * (1 + modulation[0])
        return dx, dnormed_x_hat.sum(axis=0), dnormed.sum(axis=0), (b * scale + a * shift, a)


def _affine(scale: NDArray, shift: NDArray, modulation: tuple[NDArray, ...]) -> tuple[NDArray, NDArray]:
    """Return (factor, constant) of h = x̂ · factor + constant, (C,) each, or (N, 1, C) with a modulation."""
    if not modulation:
        return scale, shift
    m_scale, m_shift = (m[:, None] for m in modulation)
    return scale * (1 + m_scale), shift * (1 + m_scale) + m_shift


def _standardised(x: NDArray, out: NDArray, mean: NDArray, r: NDArray, groups: int, eps: float, together: int) -> None:
    """Write x − μ to `out`, and μ and r = (σ² + ε)^(−1/2) of each sample and channel to `mean` and `r`."""
    pixels = x.shape[1]
    mean[...] = _group_mean(sum_over_rows(x), groups, pixels)
    centred = in_rows(out, together)
    np.subtract(in_rows(x, together), _tiled(mean, together), out=centred)
    squares = (centred * centred).reshape(x.shape)
    r[...] = (_group_mean(sum_over_rows(squares), groups, pixels) + eps) ** -0.5


def _norm_backward(
    dh: NDArray,
    centred: NDArray,
    r: NDArray,
    factor: NDArray,
    groups: int,
    a: NDArray,
    b: NDArray,
    together: int,
) -> None:
    """Overwrite dh with dx, for h = (x − μ) r · factor + constant; write a = Σ dh and b = Σ dh (x − μ) over pixels.

    The group means of g = dh · factor and of g x̂ follow from a and b, so that dx is linear in dh and x − μ.
    With G the mean over a group,

        dx = dh (r factor) − (x − μ) along − r G(factor a),   along = r² G(factor r b)
    """
    pixels = dh.shape[1]
    a[...] = sum_over_rows(dh)
    rows = in_rows(dh, together)
    b[...] = sum_over_rows((rows * centred).reshape(dh.shape))
    centred *= _tiled(r**2 * _group_mean(factor * r * b, groups, pixels), together)
    centred += _tiled(r * _group_mean(factor * a, groups, pixels), together)
    rows *= _tiled(r * factor, together)
    rows -= centred


def _tiled(per_channel: NDArray, together: int) -> NDArray:
    """Return `per_channel` (n, 1, C) repeated for each pixel of a row, (n, 1, together · C)."""
    n, _, c = per_channel.shape
    rows = np.empty((n, together, c), per_channel.dtype)
    rows[...] = per_channel
    return rows.reshape(n, 1, together * c)


def _group_mean(sums: NDArray, groups: int, pixels: int) -> NDArray:
    """Return the mean over its group for each channel, (n, 1, C), from the channels' sums over pixels, (n, 1, C)."""
    mean: NDArray = sums @ _averaging(groups, sums.shape[2], pixels, sums.dtype)
    return mean


@cache
def _averaging(groups: int, c: int, pixels: int, dtype: np.dtype[Any]) -> NDArray:
    """Return the (C, C) matrix that maps sums over pixels to the means of their groups."""
    of_each = c // groups
    return np.kron(np.eye(groups), np.full((of_each, of_each), 1 / (pixels * of_each))).astype(dtype)
