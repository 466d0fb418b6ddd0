"""A denoiser between two."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser, Prediction


class Blend:
    """A denoiser between two: what it says is (1 − λ) of what the first says and λ of what the second does.

    Its score is that of p^(1 − λ) q^λ, where theirs are those of p and q: what is likely under both. It leads from
    one class to another without a class in between.

    Args:
        first: alone at λ = 0.
        second: alone at λ = 1.
        lam: (N,) λ of each row.
    """

    def __init__(self, first: Denoiser, second: Denoiser, lam: Array) -> None:
        self.first, self.second, self.lam = first, second, lam

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the blended prediction; one denoiser is asked once if it is both."""
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
