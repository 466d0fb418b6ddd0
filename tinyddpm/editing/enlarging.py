"""Enlargement whose result shrinks to the given picture (DDNM: Wang, Yu, Zhang 2022, arXiv 2212.00490)."""

from __future__ import annotations

from typing import Any

from tinyddpm.backend import Array, clipped
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.ops.images import squares

HALVINGS = 20
"""Bisections for each shift. They reduce its interval, about 2 wide, to less than a thousandth of a grey level."""


class Matched:
    """A denoiser that makes the x_0 of another shrink to given pictures, and computes eps from the result.

    The last step of a sampler returns the predicted x_0, so the samples shrink to the pictures too. It is the outermost
    wrapper, around guidance and thresholds: applied later, they would undo it.

    Args:
        process: relates x_t, x_0 and eps.
        denoiser: the denoiser whose predictions are corrected.
        pictures: (N, H/factor, W/factor, C) in [−1, 1].
        factor: side in pixels of the squares that become one pixel.
    """

    def __init__(self, process: GaussianProcess, denoiser: Denoiser, pictures: Array, factor: int) -> None:
        self.process, self.denoiser, self.pictures, self.factor = process, denoiser, pictures, factor

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, H, W, C)."""
        prediction = self.denoiser(x_t, t)
        x_0 = matched(self.process.backend.xp, prediction.x_0, self.pictures, self.factor)
        return Prediction(x_0, self.process.predict_eps(x_t, t, x_0), prediction.fraction)


def matched(xp: Any, x_0: Array, pictures: Array, factor: int) -> Array:
    """Return the images in [−1, 1] nearest to x_0 whose means over squares are the given pictures.

    DDNM replaces x_0 by A⁺y + (I − A⁺A) x_0 (eq. 13), which for means adds to each square what its own mean lacks. That
    may leave the range, most of all beside white and black, and clipping it would spoil the means. The nearest images
    within the range are clip(x_0 + s), with the shift s of each square that makes its mean right. The mean grows with
    s, so bisection finds it.

    Args:
        xp: the array namespace.
        x_0: (N, H, W, C).
        pictures: (N, H/factor, W/factor, C) in [−1, 1].
        factor: the side of a square.
    """
    x = squares(x_0, factor)
    wanted = pictures[:, :, None, :, None, :]
    low, high = -1 - xp.max(x, axis=(2, 4), keepdims=True), 1 - xp.min(x, axis=(2, 4), keepdims=True)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        lacks = xp.mean(clipped(xp, x + middle, -1.0, 1.0), axis=(2, 4), keepdims=True) < wanted
        low, high = xp.where(lacks, middle, low), xp.where(lacks, high, middle)
    return xp.reshape(clipped(xp, x + (low + high) / 2, -1.0, 1.0), x_0.shape)
