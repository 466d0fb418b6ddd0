"""Group norm and layer norm; per sample and channel, modulation by a scale and a shift, and addition of a vector."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.ops.base import Family, Saved

EPS = 1e-6
"""Default of ε, which is added to a variance before its inverse square root is taken: that of DDPM's code."""


class Normalisation(Family):
    """Standardisation over a set of elements, then a scale and a shift per channel.

    With x̂ = (x − μ) r, r = (σ² + ε)^(−1/2) over M elements, and g = ∂L/∂x̂, the chain rule through μ and σ² gives
    dx = r (g − mean(g) − x̂ mean(g x̂)): the components of g along 1 and along x̂ drop out, because x̂ has mean 0 and,
    up to ε, mean square 1 for every x. Variances are two-pass, the mean of (x − μ)². Saved are x, μ and r; x̂ is
    recomputed.
    """

    def group_norm(self, x: Array, scale: Array, shift: Array, groups: int, eps: float = EPS) -> tuple[Array, Saved]:
        """Return y = x̂ · scale + shift, x̂ standardised over the pixels and the channels of each group (Wu, He 2018).

        dscale = Σ dy x̂ and dshift = Σ dy over samples and pixels; dx is the class's formula with g = dy · scale.

        Args:
            x: (N, ..., C).
            scale: (C,).
            shift: (C,).
            groups: number of groups, a divisor of C.
            eps: ε, added to the variance.

        Returns:
            y of x's shape, and (x, μ, r, scale, groups), with μ and r of shape (N, 1, ..., 1, C).
        """
        mean = self._group_mean(x, groups)
        r = (self._group_mean((x - mean) ** 2, groups) + eps) ** -0.5
        return (x - mean) * r * scale + shift, self._save(x, mean, r, scale, groups)

    def group_norm_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dscale, dshift) of `group_norm`."""
        x, mean, r, scale, groups = saved
        x_hat = (x - mean) * r
        all_but_channels = tuple(range(x.ndim - 1))
        dscale, dshift = self.xp.sum(dy * x_hat, axis=all_but_channels), self.xp.sum(dy, axis=all_but_channels)
        g = dy * scale
        dx = r * (g - self._group_mean(g, groups) - x_hat * self._group_mean(g * x_hat, groups))
        return dx, dscale, dshift

    def layer_norm(self, x: Array, scale: Array, shift: Array, eps: float = EPS) -> tuple[Array, Saved]:
        """Return y = x̂ · scale + shift, x̂ standardised over the last axis alone (Ba, Kiros, Hinton 2016).

        Gradients are those of `group_norm`, with the sums of dscale and dshift over all axes but the last.

        Args:
            x: (..., C).
            scale: (C,).
            shift: (C,).
            eps: ε, added to the variance.

        Returns:
            y of x's shape, and (x, μ, r, scale).
        """
        mean = self.xp.mean(x, axis=-1, keepdims=True)
        variance = self.xp.mean((x - mean) ** 2, axis=-1, keepdims=True)
        r = (variance + eps) ** -0.5
        return (x - mean) * r * scale + shift, self._save(x, mean, r, scale)

    def layer_norm_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dscale, dshift) of `layer_norm`."""
        x, mean, r, scale = saved
        x_hat = (x - mean) * r
        all_but_channels = tuple(range(x.ndim - 1))
        dscale, dshift = self.xp.sum(dy * x_hat, axis=all_but_channels), self.xp.sum(dy, axis=all_but_channels)
        g = dy * scale
        g_mean = self.xp.mean(g, axis=-1, keepdims=True)
        along = self.xp.mean(g * x_hat, axis=-1, keepdims=True)
        return r * (g - g_mean - x_hat * along), dscale, dshift

    def modulate(self, x: Array, scale: Array, shift: Array) -> tuple[Array, Saved]:
        """Return y = x (1 + scale) + shift, one scale and shift per sample and channel.

        After a norm this is adaptive group norm (IDDPM appendix A, "scale-shift") or adaLN (DiT).
        dx = dy (1 + scale); dscale = Σ dy x and dshift = Σ dy over the pixels. Saved are x and scale.

        Args:
            x: (N, ..., C).
            scale: (N, C).
            shift: (N, C).

        Returns:
            y of x's shape, and (x, scale).
        """
        across = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
        y = x * (1 + self.xp.reshape(scale, across)) + self.xp.reshape(shift, across)
        return y, self._save(x, scale)

    def modulate_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dscale, dshift) of `modulate`."""
        x, scale = saved
        pixels = tuple(range(1, x.ndim - 1))
        across = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
        dx = dy * (1 + self.xp.reshape(scale, across))
        return dx, self.xp.sum(dy * x, axis=pixels), self.xp.sum(dy, axis=pixels)

    def add_vector(self, x: Array, v: Array) -> tuple[Array, Saved]:
        """Return y = x + v, one vector per sample, added to each of its pixels.

        dx = dy, and dv = Σ dy over the pixels. Saved is an empty tuple.

        Args:
            x: (N, ..., C).
            v: (N, C).
        """
        return x + self.xp.reshape(v, (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])), self._save()

    def add_vector_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array]:
        """Return (dx, dv) of `add_vector`; dx is dy itself."""
        return dy, self.xp.sum(dy, axis=tuple(range(1, dy.ndim - 1)))

    def _group_mean(self, x: Array, groups: int) -> Array:
        """Return, for each channel, the mean over all pixels and all channels of its group, shape (N, 1, ..., 1, C)."""
        n, c = x.shape[0], x.shape[-1]
        per_channel = self.xp.mean(self.xp.reshape(x, (n, -1, c)), axis=1)
        per_group = self.xp.mean(self.xp.reshape(per_channel, (n, groups, c // groups)), axis=2)
        return self.xp.reshape(self.xp.repeat(per_group, c // groups, axis=1), (n, *(1,) * (x.ndim - 2), c))
