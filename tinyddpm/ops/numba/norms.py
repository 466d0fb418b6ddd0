"""Group norm, alone and with modulation, SiLU and dropout, layer norm, and modulation or a vector per sample.

A sample is read in rows of whole pixels, about `ROW` numbers, which stay in the cache from loop to loop. Numbers per
channel are repeated to the length of a row, and sums are accumulated per place in a row and added up at the end. So
each inner loop is long, contiguous, and without a dependence between its iterations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyddpm.ops.activation import Dropout
from tinyddpm.ops.base import Saved
from tinyddpm.ops.norm_activation import NormActivation
from tinyddpm.ops.normalisation import EPS
from tinyddpm.ops.numba.arrays import NDArray, Places, nothing, plain
from tinyddpm.ops.numba.compiling import ahead, compiled
from tinyddpm.ops.numba.exponential import logistic
from tinyddpm.ops.numba.sharing import PASS, share

ROW = 512
"""Approximate number of elements in a row: rows of ten arrays fit the first-level cache."""


class Normed(NamedTuple):
    """Residuals of a group norm.

    Attributes:
        x: (N, pixels · C).
        mean: (N, groups), μ.
        r: (N, groups), (σ² + ε)^(−1/2).
        factor: (N, C), or (1, C) without a modulation: h = x̂ · factor + constant.
        constant: the same shape.
        scale: (C,), scale of the norm.
        shift: (C,), shift of the norm.
        modulation: scale and shift, (N, C) each, or the empty tuple.
        silu: whether SiLU follows.
        keep: dropout's mask, of x's shape; (0, 0) for none.
        kept: 1 / (1 − rate), dropout's factor of kept elements.
    """

    x: NDArray
    mean: NDArray
    r: NDArray
    factor: NDArray
    constant: NDArray
    scale: NDArray
    shift: NDArray
    modulation: tuple[NDArray, ...]
    silu: bool
    keep: NDArray
    kept: Any


class NumbaNorms(NormActivation):
    """Compiled norms. Saved are one large array, x, and dropout's mask."""

    def group_norm(
        self, x: NDArray, scale: NDArray, shift: NDArray, groups: int, eps: float = EPS
    ) -> tuple[NDArray, Saved]:
        """Return the group norm of x."""
        return self._norm(x, scale, shift, groups, eps)

    def group_norm_backward(
        self, saved: Saved, dy: NDArray, into: Places = None, added: tuple[NDArray, ...] = ()
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dscale, dshift) of `group_norm`."""
        dx, dscale, dshift, _ = self._norm_backward(saved, dy, into, added)
        return dx, dscale, dshift

    def layer_norm(self, x: NDArray, scale: NDArray, shift: NDArray, eps: float = EPS) -> tuple[NDArray, Saved]:
        """Return the layer norm of x, as a group norm of samples with one pixel and one group."""
        y, saved = self._norm(x.reshape(-1, x.shape[-1]), scale, shift, 1, eps)
        return y.reshape(x.shape), saved

    def layer_norm_backward(
        self, saved: Saved, dy: NDArray, into: Places = None, added: tuple[NDArray, ...] = ()
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dscale, dshift) of `layer_norm`."""
        dx, dscale, dshift, _ = self._norm_backward(saved, dy, into, added)
        return dx, dscale, dshift

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
        """Return dropout(silu(modulate(group_norm(x)))) in one function."""
        return self._norm(x, scale, shift, groups, eps, modulation, True, dropout)

    def group_norm_silu_backward(
        self, saved: Saved, dy: NDArray, into: Places = None, added: tuple[NDArray, ...] = ()
    ) -> tuple[NDArray, NDArray, NDArray, tuple[NDArray, ...]]:
        """Return (dx, dscale, dshift, dmodulation) of `group_norm_silu`."""
        return self._norm_backward(saved, dy, into, added)

    def _norm(
        self, x: NDArray, scale: NDArray, shift: NDArray, groups: int, eps: float,
        modulation: tuple[NDArray, ...] = (), silu: bool = False, dropout: Dropout | None = None,
    ) -> tuple[NDArray, Saved]:  # fmt: skip
        """Return h = x̂ · scale + shift, followed by modulation, SiLU and dropout where asked for."""
        n, c, dtype = x.shape[0], x.shape[-1], x.dtype
        flat = plain(x).reshape(n, -1)
        keep = (
            plain(dropout.noise.keep(x.shape, dropout.rate, dropout.layer)).reshape(n, -1) if dropout else nothing(bool)
        )
        kept = dtype.type(1 / (1 - dropout.rate) if dropout else 1)
        factor, constant = scale[None], shift[None]
        if modulation:
            m_scale, m_shift = modulation
            factor, constant = factor * (1 + m_scale), constant * (1 + m_scale) + m_shift
        factor, constant = plain(factor, dtype), plain(constant, dtype)
        row = row_length(flat.shape[1], c)
        y, mean, r = np.empty_like(flat), np.empty((n, groups), dtype), np.empty((n, groups), dtype)
        share(
            lambda first, last: _normalise(
                flat, factor, constant, keep, kept, eps, silu, row, first, last, y, mean, r
            ),
            n * groups,
            PASS * x.size,
        )  # fmt: skip
        saved = Normed(flat, mean, r, factor, constant, scale, shift, modulation, silu, keep, kept)
        return y.reshape(x.shape), saved if self.training else None

    def _norm_backward(
        self, saved: Normed, dy: NDArray, into: Places, added: tuple[NDArray, ...]
    ) -> tuple[NDArray, NDArray, NDArray, tuple[NDArray, ...]]:
        """Return (dx, dscale, dshift, dmodulation) of `_norm`.

        Every gradient except dx follows from two sums per sample and channel, a = Σ dh and b = Σ dh x̂.
        """
        x, mean, r, factor, constant, scale, shift, modulation, silu, keep, kept = saved
        (n, groups), c, dtype = mean.shape, factor.shape[1], x.dtype
        first_added, *others = [plain(a, dtype).reshape(n, -1) for a in added] or [nothing(dtype)]
        second_added = sum(others[1:], start=others[0]) if others else nothing(dtype)
        flat, dx, row = plain(dy, dtype).reshape(n, -1), np.empty_like(x), row_length(x.shape[1], c)
        a, b = np.empty((2, n, c), dtype)
        share(
            lambda first, last: _normalise_backward(
                x, flat, mean, r, factor, constant, keep, kept, first_added, second_added, silu, row, first, last,
                dx, a, b,
            ),
            n * groups,
            PASS * x.size,
        )  # fmt: skip
        dscale, dshift = into or np.empty((2, c), dtype)
        dmodulation = (b * scale + a * shift, a) if modulation else ()
        if modulation:
            a, b = a * (1 + modulation[0]), b * (1 + modulation[0])
        np.sum(b, axis=0, out=dscale)
        np.sum(a, axis=0, out=dshift)
        return dx.reshape(dy.shape), dscale, dshift, dmodulation

    def modulate(self, x: NDArray, scale: NDArray, shift: NDArray) -> tuple[NDArray, Saved]:
        """Return x (1 + scale) + shift, with one scale and shift per sample and channel."""
        flat, scale = plain(x).reshape(len(x), -1), plain(scale, x.dtype)
        y = self._affine(flat, 1 + scale, plain(shift, x.dtype))
        return y.reshape(x.shape), self._save(flat, scale)

    def modulate_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dscale, dshift) of `modulate`."""
        x, scale = saved
        flat = plain(dy).reshape(x.shape)
        dscale, dshift, row = np.empty_like(scale), np.empty_like(scale), row_length(x.shape[1], scale.shape[1])
        share(lambda first, last: _channel_sums(flat, x, row, first, last, dshift, dscale), len(x), PASS * x.size)
        return self._affine(flat, 1 + scale, np.zeros_like(scale)).reshape(dy.shape), dscale, dshift

    def add_vector(self, x: NDArray, v: NDArray) -> tuple[NDArray, Saved]:
        """Return x + v, with one vector per sample, added to each of its pixels."""
        y = self._affine(plain(x).reshape(len(x), -1), np.ones(v.shape, x.dtype), plain(v, x.dtype))
        return y.reshape(x.shape), self._save()

    def add_vector_backward(self, saved: Saved, dy: NDArray) -> tuple[NDArray, NDArray]:
        """Return (dx, dv) of `add_vector`; dx is dy itself."""
        flat, dv = plain(dy).reshape(len(dy), -1), np.empty((len(dy), dy.shape[-1]), dy.dtype)
        row, none = row_length(flat.shape[1], dy.shape[-1]), nothing(dy.dtype)
        share(lambda first, last: _channel_sums(flat, none, row, first, last, dv, dv), len(dy), PASS * dy.size)
        return dy, dv

    def _affine(self, x: NDArray, factor: NDArray, constant: NDArray) -> NDArray:
        """Return x · factor + constant per sample and channel, for x of (N, pixels · C)."""
        y, row = np.empty_like(x), row_length(x.shape[1], factor.shape[1])
        share(lambda first, last: _scale_and_shift(x, factor, constant, row, first, last, y), len(x), PASS * x.size)
        return y


def row_length(size: int, c: int) -> int:
    """Return the number of elements in a row, a multiple of c, for a sample of `size` elements."""
    return c * max(1, min(ROW, size) // c)


@compiled
def _add_up(row: NDArray, width: int) -> None:
    """Add all pixels of a row, `width` channels each, to its first pixel."""
    total = row[:width]
    for start in range(width, len(row), width):
        pixel = row[start : start + width]
        for i in range(len(total)):
            total[i] += pixel[i]


@compiled
def _repeat(row: NDArray, width: int) -> None:
    """Copy the first pixel of a row, `width` channels, to all others."""
    first = row[:width]
    for start in range(width, len(row), width):
        pixel = row[start : start + width]
        for i in range(len(first)):
            pixel[i] = first[i]


@ahead("f4[:, ::1], f4[:, ::1], f4[:, ::1], b1[:, ::1], f4, f8, b1, i8, i8, i8, f4[:, ::1], f4[:, ::1], f4[:, ::1]")
@compiled
def _normalise(
    x: NDArray, factor: NDArray, constant: NDArray, keep: NDArray, kept: Any, eps: float, silu: bool,
    row_of_all: int, first: int, last: int, y: NDArray, mean: NDArray, r: NDArray,
) -> None:  # fmt: skip
    """Write y, μ and r for groups `first` to below `last` of all N · groups groups.

    The first and the last sample may be cut: of these, only some groups are in the range.
    """
    size, c, groups = x.shape[1], factor.shape[1], mean.shape[1]
    each = c // groups
    number = size // groups
    dropped = x.dtype.type(0)
    centre, slope, shift, sums = np.empty((4, row_of_all), x.dtype)
    for n in range(first // groups, (last + groups - 1) // groups):
        start_group, end_group = max(0, first - n * groups), min(groups, last - n * groups)
        begin, width = start_group * each, (end_group - start_group) * each
        row, step = (row_of_all, row_of_all) if width == c else (width, c)
        x_n, y_n = x[n], y[n]
        for i in range(row):
            sums[i] = 0
        for start in range(begin, size, step):
            x_row = x_n[start : start + row]
            for i in range(len(x_row)):
                sums[i] += x_row[i]
        _add_up(sums[:row], width)
        for g in range(start_group, end_group):
            place = (g - start_group) * each
            total = 0.0
            for i in range(place, place + each):
                total += sums[i]
            mean[n, g] = total / number
            for i in range(place, place + each):
                centre[i] = mean[n, g]
        _repeat(centre[:row], width)
        for i in range(row):
            sums[i] = 0
        for start in range(begin, size, step):
            x_row = x_n[start : start + row]
            for i in range(len(x_row)):
                centred = x_row[i] - centre[i]
                sums[i] += centred * centred
        _add_up(sums[:row], width)
        told = n if len(factor) > 1 else 0
        for g in range(start_group, end_group):
            place = (g - start_group) * each
            total = 0.0
            for i in range(place, place + each):
                total += sums[i]
            r[n, g] = 1 / np.sqrt(total / number + eps)
            for i in range(place, place + each):
                slope[i] = r[n, g] * factor[told, begin + i]
                shift[i] = constant[told, begin + i]
        _repeat(slope[:row], width)
        _repeat(shift[:row], width)
        for start in range(begin, size, step):
            x_row, y_row = x_n[start : start + row], y_n[start : start + row]
            for i in range(len(x_row)):
                y_row[i] = (x_row[i] - centre[i]) * slope[i] + shift[i]
            if silu:
                for i in range(len(y_row)):
                    y_row[i] = y_row[i] * logistic(y_row[i])
            if len(keep):
                keep_row = keep[n, start : start + row]
                for i in range(len(y_row)):
                    y_row[i] = y_row[i] * (kept if keep_row[i] else dropped)


@ahead(
    "f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], b1[:, ::1], f4, "
    "f4[:, ::1], f4[:, ::1], b1, i8, i8, i8, f4[:, ::1], f4[:, ::1], f4[:, ::1]"
)
@compiled
def _normalise_backward(
    x: NDArray, dy: NDArray, mean: NDArray, r: NDArray, factor: NDArray, constant: NDArray, keep: NDArray, kept: Any,
    first_added: NDArray, second_added: NDArray, silu: bool, row_of_all: int, first: int, last: int,
    dx: NDArray, a: NDArray, b: NDArray,
) -> None:  # fmt: skip
    """Write dx, a = Σ dh and b = Σ dh x̂ for groups `first` to below `last` of all N · groups groups.

    The group means of g = dh · factor and of g x̂ follow from a and b, so that dx is linear in dh and x − μ.
    With G the mean over a group,

        dx = dh (r factor) − (x − μ) along − r G(factor a),   along = r² G(factor b)

    `first_added` and `second_added` are added to dx: arrays of its shape, or empty, (0, 0).
    """
    size, c, groups = x.shape[1], factor.shape[1], mean.shape[1]
    each = c // groups
    number = size // groups
    dropped = x.dtype.type(0)
    centre, slope, shift, sum_a, sum_b, dh = np.empty((6, row_of_all), x.dtype)
    for n in range(first // groups, (last + groups - 1) // groups):
        start_group, end_group = max(0, first - n * groups), min(groups, last - n * groups)
        begin, width = start_group * each, (end_group - start_group) * each
        row, step = (row_of_all, row_of_all) if width == c else (width, c)
        x_n, dy_n, dx_n = x[n], dy[n], dx[n]
        told = n if len(factor) > 1 else 0
        for g in range(start_group, end_group):
            place = (g - start_group) * each
            for i in range(place, place + each):
                centre[i] = mean[n, g]
                slope[i] = r[n, g] * factor[told, begin + i]
                shift[i] = constant[told, begin + i]
        _repeat(centre[:row], width)
        _repeat(slope[:row], width)
        _repeat(shift[:row], width)
        for i in range(row):
            sum_a[i] = 0
            sum_b[i] = 0
        for start in range(begin, size, step):
            x_row, dy_row, dx_row = x_n[start : start + row], dy_n[start : start + row], dx_n[start : start + row]
            if len(keep):
                keep_row = keep[n, start : start + row]
                for i in range(len(x_row)):
                    dh[i] = dy_row[i] * (kept if keep_row[i] else dropped)
            else:
                for i in range(len(x_row)):
                    dh[i] = dy_row[i]
            if silu:
                for i in range(len(x_row)):
                    h = (x_row[i] - centre[i]) * slope[i] + shift[i]
                    sigma = logistic(h)
                    dh[i] = dh[i] * (sigma + h * (sigma - sigma * sigma))
            for i in range(len(x_row)):
                dx_row[i] = dh[i]
                sum_a[i] += dh[i]
                sum_b[i] += dh[i] * (x_row[i] - centre[i])
        _add_up(sum_a[:row], width)
        _add_up(sum_b[:row], width)
        for g in range(start_group, end_group):
            place = (g - start_group) * each
            along, across = 0.0, 0.0
            for i in range(place, place + each):
                a[n, begin + i] = sum_a[i]
                b[n, begin + i] = sum_b[i] * r[n, g]
                across += factor[told, begin + i] * a[n, begin + i]
                along += factor[told, begin + i] * b[n, begin + i]
            for i in range(place, place + each):
                sum_a[i] = across / number * r[n, g]
                sum_b[i] = along / number * r[n, g] * r[n, g]
        _repeat(sum_a[:row], width)
        _repeat(sum_b[:row], width)
        for start in range(begin, size, step):
            x_row, dx_row = x_n[start : start + row], dx_n[start : start + row]
            for i in range(len(x_row)):
                dx_row[i] = dx_row[i] * slope[i] - (x_row[i] - centre[i]) * sum_b[i] - sum_a[i]
            for other in (first_added, second_added):
                if len(other):
                    other_row = other[n, start : start + row]
                    for i in range(len(x_row)):
                        dx_row[i] += other_row[i]


@ahead("f4[:, ::1], f4[:, ::1], f4[:, ::1], i8, i8, i8, f4[:, ::1]")
@compiled
def _scale_and_shift(
    x: NDArray, factor: NDArray, constant: NDArray, row: int, first: int, last: int, y: NDArray
) -> None:  # fmt: skip
    """Write y = x · factor + constant for samples `first` to below `last`, factor and constant being (N, C)."""
    size, c = x.shape[1], factor.shape[1]
    slope, shift = np.empty((2, row), x.dtype)
    for n in range(first, last):
        for i in range(c):
            slope[i] = factor[n, i]
            shift[i] = constant[n, i]
        _repeat(slope, c)
        _repeat(shift, c)
        for start in range(0, size, row):
            x_row, y_row = x[n, start : start + row], y[n, start : start + row]
            for i in range(len(x_row)):
                y_row[i] = x_row[i] * slope[i] + shift[i]


@ahead("f4[:, ::1], f4[:, ::1], i8, i8, i8, f4[:, ::1], f4[:, ::1]")
@compiled
def _channel_sums(dy: NDArray, x: NDArray, row: int, first: int, last: int, total: NDArray, along: NDArray) -> None:
    """Write Σ dy over pixels to `total`, and Σ dy x to `along` unless x is empty, for samples `first` to `last` − 1."""
    size, c = dy.shape[1], total.shape[1]
    sums, products = np.empty((2, row), dy.dtype)
    for n in range(first, last):
        for i in range(row):
            sums[i] = 0
            products[i] = 0
        for start in range(0, size, row):
            dy_row = dy[n, start : start + row]
            for i in range(len(dy_row)):
                sums[i] += dy_row[i]
            if len(x):
                x_row = x[n, start : start + row]
                for i in range(len(dy_row)):
                    products[i] += dy_row[i] * x_row[i]
        _add_up(sums, c)
        for i in range(c):
            total[n, i] = sums[i]
        if len(x):
            _add_up(products, c)
            for i in range(c):
                along[n, i] = products[i]
