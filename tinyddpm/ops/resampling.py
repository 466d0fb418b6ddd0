"""Doubling and halving of resolution, and the concatenation of a U-Net's skip connections."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.ops.base import Family, Saved


class Resampling(Family):
    """Nearest-neighbour doubling of NHWC images, halving by means, and concatenation."""

    def upsample(self, x: Array) -> tuple[Array, Saved]:
        """Return y[n, i, j] = x[n, i // 2, j // 2], shape (N, 2H, 2W, C): nearest-neighbour doubling.

        Each pixel is read four times, so dx sums dy over 2×2 squares. Saved is an empty tuple.
        """
        return self._doubled(x), self._save()

    def upsample_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx of `upsample`."""
        return self._squares_summed(dy)

    def average_pool(self, x: Array) -> tuple[Array, Saved]:
        """Return the means over 2×2 squares, shape (N, H/2, W/2, C), of x with even H and W.

        This is `upsample_backward` times 1/4, so dx is dy / 4 at all four pixels of a square. Saved is an empty tuple.
        """
        return self._quarter(self._squares_summed(x)), self._save()

    def average_pool_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx of `average_pool`."""
        return self._doubled(self._quarter(dy))

    def concat(self, a: Array, b: Array) -> tuple[Array, Saved]:
        """Return a and b concatenated along the channels; (da, db) is dy split at channel C_a.

        Args:
            a: (..., C_a).
            b: (..., C_b).

        Returns:
            (..., C_a + C_b), and (C_a,).
        """
        return self.xp.concat([a, b], axis=-1), self._save(a.shape[-1])

    def concat_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array]:
        """Return (da, db) of `concat`, views of dy."""
        (c_a,) = saved
        return dy[..., :c_a], dy[..., c_a:]

    def _quarter(self, x: Array) -> Array:
        quarter: Array = self.xp.astype(x * 0.25, x.dtype, copy=False)  # with bfloat16, NumPy's product is float32
        return quarter

    def _doubled(self, x: Array) -> Array:
        return self.xp.repeat(self.xp.repeat(x, 2, axis=1), 2, axis=2)

    def _squares_summed(self, x: Array) -> Array:
        rows = x[:, 0::2, :, :] + x[:, 1::2, :, :]
        return rows[:, :, 0::2, :] + rows[:, :, 1::2, :]
