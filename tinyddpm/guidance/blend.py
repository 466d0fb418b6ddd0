"""The blend of two denoisers."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser, Prediction


class Blend:
    """The denoiser that predicts (1 − λ) times the prediction of a first denoiser plus λ times that of a second.

    If their scores are those of p and q, its score is that of p^(1 − λ) q^λ, which is large where both are. So it
    interpolates between two classes although no class lies between them.

    Args:
        first: the denoiser at λ = 0.
        second: the denoiser at λ = 1.
        lam: (N,) λ of each sample.
    """

    def __init__(self, first: Denoiser, second: Denoiser, lam: Array) -> None:
        self.first, self.second, self.lam = first, second, lam

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the blended prediction for x_t, (N, ...); a denoiser that is both first and second is called once."""
        a = self.first(x_t, t)
        if self.first is self.second:
            return a
        b = self.second(x_t, t)
        share = self.lam[(..., *(None,) * (x_t.ndim - 1))]  # (N, 1, ...)

        def blended(of_first: Array, of_second: Array) -> Array:
            return (1 - share) * of_first + share * of_second

        x_0, eps = blended(a.x_0, b.x_0), blended(a.eps, b.eps)
        if a.fraction is None or b.fraction is None:
            return Prediction(x_0, eps)
        return Prediction(x_0, eps, blended(a.fraction, b.fraction))
