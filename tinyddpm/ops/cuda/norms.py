"""Group norm, layer norm, and group norm with modulation and SiLU, by the kernels of `group_norm.cu`."""

from __future__ import annotations

from typing import NamedTuple

from tinyddpm.backend import Array
from tinyddpm.ops.base import Saved
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.launching import Launching
from tinyddpm.ops.normalisation import EPS


class Normed(NamedTuple):
    """What the norms' kernels keep; x is (N, pixels, C), mean and r are (N, groups)."""

    x: Array
    mean: Array
    r: Array
    scale: Array
    shift: Array
    modulation: tuple[Array, ...]
    groups: int
    silu: bool


class CudaNorms(Launching):
    """The norms: one kernel forwards, two backwards."""

    def group_norm(self, x: Array, scale: Array, shift: Array, groups: int, eps: float = EPS) -> tuple[Array, Saved]:
        """Return the group norm by one kernel."""
        return self._norm(x, scale, shift, groups, (), eps, silu=False) or super().group_norm(
            x, scale, shift, groups, eps
        )

    def group_norm_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dscale, dshift) by two kernels."""
        if not isinstance(saved, Normed):
            return super().group_norm_backward(saved, dy)
        dx, dscale, dshift, _ = self._norm_backward(saved, dy)
        return dx, dscale, dshift

    def layer_norm(self, x: Array, scale: Array, shift: Array, eps: float = EPS) -> tuple[Array, Saved]:
        """Return the layer norm: a group norm of samples with one pixel and one group."""
        rows = self.xp.reshape(x, (-1, x.shape[-1]))
        found = self._norm(rows, scale, shift, 1, (), eps, silu=False)
        if found is None:
            return super().layer_norm(x, scale, shift, eps)
        return self.xp.reshape(found[0], x.shape), found[1]

    def layer_norm_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dscale, dshift) by two kernels."""
        if not isinstance(saved, Normed):
            return super().layer_norm_backward(saved, dy)
        dx, dscale, dshift, _ = self._norm_backward(saved, dy)
        return dx, dscale, dshift

    def group_norm_silu(
        self, x: Array, scale: Array, shift: Array, groups: int, modulation: tuple[Array, ...] = ()
    ) -> tuple[Array, Saved]:
        """Return silu(modulate(group_norm(x))) by one kernel."""
        return self._norm(x, scale, shift, groups, modulation, EPS, silu=True) or super().group_norm_silu(
            x, scale, shift, groups, modulation
        )

    def group_norm_silu_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array, tuple[Array, ...]]:
        """Return (dx, dscale, dshift, dmodulation) by two kernels."""
        if not isinstance(saved, Normed):
            return super().group_norm_silu_backward(saved, dy)
        return self._norm_backward(saved, dy)

    def _norm(
        self, x: Array, scale: Array, shift: Array, groups: int, modulation: tuple[Array, ...], eps: float, silu: bool
    ) -> tuple[Array, Saved] | None:
        """Return y and what its backward needs, or None where the kernel cannot do it."""
        if not (self._takes(x) and self._takes(scale, shift, *modulation)):
            return None
        x_flat = self.xp.ascontiguousarray(self.xp.reshape(x, (x.shape[0], -1, x.shape[-1])))
        n, _, c = x_flat.shape
        cut = self._norm_geometry(x_flat, groups, backward=False)
        if cut is None:
            return None
        y = self._empty(x.shape, x.dtype)
        mean, r = self._empty((n, groups), self.xp.float32), self._empty((n, groups), self.xp.float32)
        saved = Normed(x_flat, mean, r, scale, shift, modulation, groups, silu)
        self._launch(
            "group_norm", "group_norm_forward", cut.geometry, x_flat, *self._norm_parameters(saved), y, mean, r,
            x_flat.shape[1], c, groups, cut.chunk, eps, silu, cut.tiled,
        )  # fmt: skip
        return y, saved if self.training else None

    def _norm_backward(self, saved: Normed, dy: Array) -> tuple[Array, Array, Array, tuple[Array, ...]]:
        """Return (dx, dscale, dshift, dmodulation)."""
        x, mean, r, scale, shift, modulation, groups, silu = saved
        (n, pixels, c), parameters, float32 = x.shape, self._norm_parameters(saved), self.xp.float32
        cut = self._norm_geometry(x, groups, backward=True)
        assert cut is not None  # the forward has asked
        dy = self.xp.ascontiguousarray(self.xp.astype(dy, x.dtype, copy=False))
        dx = self._empty(dy.shape, x.dtype)
        sum_dz, sum_dz_x = self._empty((n, c), float32), self._empty((n, c), float32)
        self._launch(
            "group_norm", "group_norm_backward", cut.geometry, x, dy, *parameters, mean, r, dx, sum_dz, sum_dz_x,
            pixels, c, groups, cut.chunk, silu, cut.tiled,
        )  # fmt: skip
        dscale, dshift = self._empty((c,), float32), self._empty((c,), float32)
        dm_scale = self._empty((n, c), float32) if modulation else None
        where = geometry.group_norm_parameters(n, c)
        self._kernels.launch(
            "group_norm", "group_norm_parameters", str(x.dtype), where,
            sum_dz, sum_dz_x, *parameters[:3], dscale, dshift, dm_scale, n, c,
        )  # fmt: skip
        gradients = [dscale, dshift, *((dm_scale, sum_dz) if modulation else ())]
        inputs = (scale, shift, *modulation)
        dscale, dshift, *dmodulation = (
            self.xp.astype(gradient, of.dtype, copy=False) for gradient, of in zip(gradients, inputs, strict=True)
        )
        return dx, dscale, dshift, tuple(dmodulation)

    def _norm_geometry(self, x: Array, groups: int, backward: bool) -> geometry.NormGeometry | None:
        return geometry.group_norm(x.shape, groups, x.dtype.itemsize, self._kernels.shared_memory, backward)

    def _norm_parameters(self, saved: Normed) -> tuple[Array | None, ...]:
        """Return scale, shift and the modulation's scale and shift or None, as the kernels read them."""
        given = (saved.scale, saved.shift, *(saved.modulation or (None, None)))
        return tuple(
            None if a is None else self.xp.ascontiguousarray(self.xp.astype(a, self.xp.float32, copy=False))
            for a in given
        )
