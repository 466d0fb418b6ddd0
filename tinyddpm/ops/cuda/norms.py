"""Group norm, layer norm, and group norm with modulation, SiLU and dropout, by the kernels of `group_norm.cu`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from tinyddpm.backend import Array
from tinyddpm.ops.activation import Dropout
from tinyddpm.ops.base import Saved
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.activations import CudaActivations
from tinyddpm.ops.cuda.launching import Places
from tinyddpm.ops.cuda.random import NO_MASK, mask_arguments
from tinyddpm.ops.normalisation import EPS


class Normed(NamedTuple):
    """Residuals of a norm: x is (N, pixels, C), mean and r are (N, groups); arguments `mask` draw the mask again."""

    x: Array
    mean: Array
    r: Array
    scale: Array
    shift: Array
    modulation: tuple[Array, ...]
    groups: int
    silu: bool
    mask: tuple[Any, ...]


class CudaNorms(CudaActivations):
    """The norms: one kernel in the forward, two in the backward.

    Scale and shift and their gradients are float32. A modulation and its gradients have x's dtype.
    """

    def group_norm(self, x: Array, scale: Array, shift: Array, groups: int, eps: float = EPS) -> tuple[Array, Saved]:
        """Return the group norm by one kernel."""
        return self._norm(x, scale, shift, groups, eps) or super().group_norm(x, scale, shift, groups, eps)

    def group_norm_backward(
        self, saved: Saved, dy: Array, into: Places = None, added: tuple[Array, ...] = ()
    ) -> tuple[Array, Array, Array]:
        """Return (dx, dscale, dshift) by two kernels."""
        if not isinstance(saved, Normed):
            return self._stored(super().group_norm_backward(saved, dy), into, added)
        dx, dscale, dshift, _ = self._norm_backward(saved, dy, into, added)
        return dx, dscale, dshift

    def layer_norm(self, x: Array, scale: Array, shift: Array, eps: float = EPS) -> tuple[Array, Saved]:
        """Return the layer norm, as a group norm of samples with one pixel and one group."""
        rows = self.xp.reshape(x, (-1, x.shape[-1]))
        found = self._norm(rows, scale, shift, 1, eps)
        if found is None:
            return super().layer_norm(x, scale, shift, eps)
        return self.xp.reshape(found[0], x.shape), found[1]

    def layer_norm_backward(
        self, saved: Saved, dy: Array, into: Places = None, added: tuple[Array, ...] = ()
    ) -> tuple[Array, Array, Array]:
        """Return (dx, dscale, dshift) by two kernels."""
        if not isinstance(saved, Normed):
            return self._stored(super().layer_norm_backward(saved, dy), into, added)
        dx, dscale, dshift, _ = self._norm_backward(saved, dy, into, added)
        return dx, dscale, dshift

    def group_norm_silu(
        self,
        x: Array,
        scale: Array,
        shift: Array,
        groups: int,
        modulation: tuple[Array, ...] = (),
        dropout: Dropout | None = None,
        eps: float = EPS,
    ) -> tuple[Array, Saved]:
        """Return dropout(silu(modulate(group_norm(x)))) by one kernel, which draws the mask itself."""
        mask = mask_arguments(dropout) if dropout and self._takes(x) else NO_MASK
        found = mask and self._norm(x, scale, shift, groups, eps, modulation, silu=True, mask=mask)
        return found or super().group_norm_silu(x, scale, shift, groups, modulation, dropout, eps)

    def group_norm_silu_backward(
        self, saved: Saved, dy: Array, into: Places = None, added: tuple[Array, ...] = ()
    ) -> tuple[Array, Array, Array, tuple[Array, ...]]:
        """Return (dx, dscale, dshift, dmodulation) by two kernels."""
        if not isinstance(saved, Normed):
            return self._stored(super().group_norm_silu_backward(saved, dy), into, added)
        return self._norm_backward(saved, dy, into, added)

    def _norm(
        self, x: Array, scale: Array, shift: Array, groups: int, eps: float, modulation: tuple[Array, ...] = (),
        silu: bool = False, mask: tuple[Any, ...] = NO_MASK,
    ) -> tuple[Array, Saved] | None:  # fmt: skip
        """Return y and its residuals, or None for arguments that the kernel cannot take."""
        if not (self._takes(x, *modulation) and self._takes(scale, shift)):
            return None
        x_flat = self.xp.ascontiguousarray(self.xp.reshape(x, (x.shape[0], -1, x.shape[-1])))
        n, pixels, c = x_flat.shape
        cut = self._norm_geometry(x_flat, groups, silu, mask, backward=False)
        if cut is None:
            return None
        y = self._empty(x.shape, x.dtype)
        mean, r = self._empty((n, groups), self.xp.float32), self._empty((n, groups), self.xp.float32)
        scale, shift = (self.xp.ascontiguousarray(self.xp.astype(a, mean.dtype, copy=False)) for a in (scale, shift))
        modulation = tuple(map(self.xp.ascontiguousarray, modulation))
        saved = Normed(x_flat, mean, r, scale, shift, modulation, groups, silu, mask)
        self._launch(
            "group_norm", "group_norm_forward", cut.geometry, x_flat, scale, shift, *(modulation or (None, None)),
            *mask, y, mean, r, pixels, c, groups, cut.chunk, float(eps), cut.lanes,
        )  # fmt: skip
        return y, saved if self.training else None

    def _norm_backward(
        self, saved: Normed, dy: Array, into: Places, added: tuple[Array, ...]
    ) -> tuple[Array, Array, Array, tuple[Array, ...]]:
        """Return (dx, dscale, dshift, dmodulation) of `_norm`."""
        x, mean, r, scale, shift, modulation, groups, silu, mask = saved
        (n, pixels, c), float32 = x.shape, self.xp.float32
        cut = self._norm_geometry(x, groups, silu, mask, backward=True)
        assert cut is not None  # or the forward would have used the reference
        dy = self._as_contiguous(dy, x)
        first, rest = self._sum(added[:1], x), self._sum(added[1:], x)
        dx = self._empty(dy.shape, x.dtype)
        sum_dz, sum_dz_x = self._empty((n, c), float32), self._empty((n, c), float32)
        self._launch(
            "group_norm", "group_norm_backward", cut.geometry, x, scale, shift, *(modulation or (None, None)), *mask,
            dy, mean, r, first, rest, dx, sum_dz, sum_dz_x, pixels, c, groups, cut.chunk, cut.lanes,
        )  # fmt: skip
        dscale, dshift = into or (self._empty((c,), float32), self._empty((c,), float32))
        dmodulation = tuple(self._empty((n, c), x.dtype) for _ in modulation)
        where = replace(geometry.channel_sums(n, c, sums=2), options=cut.geometry.options)  # in the same module
        self._kernels.launch(
            "group_norm", "group_norm_parameters", str(x.dtype), where, sum_dz, sum_dz_x, scale, shift,
            modulation[0] if modulation else None, dscale, dshift, *(dmodulation or (None, None)), n, c,
        )  # fmt: skip
        return dx, dscale, dshift, dmodulation

    def _norm_geometry(
        self, x: Array, groups: int, silu: bool, mask: tuple[Any, ...], backward: bool
    ) -> geometry.NormGeometry | None:
        memory, masked = self._kernels.shared_memory, mask is not NO_MASK
        return geometry.group_norm(x.shape, groups, x.dtype.itemsize, memory, silu, masked, backward)
