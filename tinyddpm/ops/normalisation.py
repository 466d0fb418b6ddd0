"""Group norm, layer norm, and the modulation that makes either of them adaptive."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.ops.base import Family, Saved


class Normalisation(Family):
    """Standardisation over a set of elements, then a scale and a shift per channel.

    With x̂ = (x − μ) r, r = (σ² + ε)^(−1/2) over M elements and g the gradient that reaches x̂, the chain rule through
    μ and σ² gives dx = r (g − mean(g) − x̂ mean(g x̂)): what g has along 1 and along x̂ is lost, as x̂ cannot move there.
    Variances are two-pass, the mean of (x − μ)². Saved are x, μ and r; x̂ is recomputed.
    """

    def group_norm(self, x: Array, scale: Array, shift: Array, groups: int, eps: float = 1e-6) -> tuple[Array, Saved]:
        """Return y = x̂ · scale + shift, x̂ standardised over the pixels and the channels of each group (Wu, He 2018).

        dscale = Σ dy x̂ and dshift = Σ dy over samples and pixels; dx as the class derives it with g = dy · scale.

        Args:
            x: (N, ..., C).
            scale: (C,).
            shift: (C,).
            groups: number of groups; it divides C.
            eps: added to the variance.

        Returns:
            y of x's shape, and (x, μ, r, scale).
        """
        grouped = self._grouped(x, groups)
        mean = self.xp.mean(grouped, axis=(1, 3), keepdims=True)
        variance = self.xp.mean((grouped - mean) ** 2, axis=(1, 3), keepdims=True)
        r = (variance + eps) ** -0.5
        y = self.xp.reshape((grouped - mean) * r, x.shape) * scale + shift
        return y, self._save(x, mean, r, scale)

    def group_norm_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dscale, dshift) of `group_norm`."""
        x, mean, r, scale = saved
        groups = mean.shape[2]
        x_hat = (self._grouped(x, groups) - mean) * r
        flat = (-1, x.shape[-1])
        dscale = self.xp.sum(self.xp.reshape(dy, flat) * self.xp.reshape(x_hat, flat), axis=0)
        dshift = self.xp.sum(self.xp.reshape(dy, flat), axis=0)
        dx = self._standardise_backward(x_hat, r, self._grouped(dy * scale, groups), axis=(1, 3))
        return self.xp.reshape(dx, x.shape), dscale, dshift

    def layer_norm(self, x: Array, scale: Array, shift: Array, eps: float = 1e-6) -> tuple[Array, Saved]:
        """Return y = x̂ · scale + shift, x̂ standardised over the last axis alone (Ba, Kiros, Hinton 2016).

        Args:
            x: (..., C).
            scale: (C,).
            shift: (C,).
            eps: added to the variance.

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
        leading = tuple(range(x.ndim - 1))
        dscale, dshift = self.xp.sum(dy * x_hat, axis=leading), self.xp.sum(dy, axis=leading)
        return self._standardise_backward(x_hat, r, dy * scale, axis=(-1,)), dscale, dshift

    def modulate(self, x: Array, scale: Array, shift: Array) -> tuple[Array, Saved]:
        """Return y = x (1 + scale) + shift, one scale and shift per sample and channel.

        After a norm this is adaptive group norm (IDDPM section 3, "scale-shift") or adaLN (DiT).
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

    def _grouped(self, x: Array, groups: int) -> Array:
        """Return x as (N, pixels, groups, channels of a group)."""
        return self.xp.reshape(x, (x.shape[0], -1, groups, x.shape[-1] // groups))

    def _standardise_backward(self, x_hat: Array, r: Array, g: Array, axis: tuple[int, ...]) -> Array:
        """Return dx = r (g − mean(g) − x̂ mean(g x̂)), means over `axis`."""
        g_mean = self.xp.mean(g, axis=axis, keepdims=True)
        along = self.xp.mean(g * x_hat, axis=axis, keepdims=True)
        return r * (g - g_mean - x_hat * along)
