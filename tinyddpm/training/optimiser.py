"""Adam, clipping and the running average of the weights, each a pass over the flat buffer."""

from __future__ import annotations

from math import sqrt

from tinyddpm.backend import Array

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8


class Adam:
    """Adam (Kingma, Ba 2014, Algorithm 1) over one flat buffer.

    Attributes:
        m: running mean of the gradient.
        v: running mean of its square.
    """

    def __init__(self, m: Array, v: Array) -> None:
        self.m, self.v = m, v

    def update(
        self, weights: Array, gradient: Array, learning_rate: float, step: int, part: slice = slice(None)
    ) -> None:
        """Change `weights`, m and v in place: step number `step` (0-based) along `gradient`.

        The two arrays are those of one part of the buffer; m and v are cut here.

        m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², and w ← w − lr m̂ / (√v̂ + ε), where m̂ and v̂ are divided by
        1 − βᵏ, k = step + 1, since both averages started at 0.
        """
        m, v = self.m[part], self.v[part]
        m *= BETA_1
        m += (1 - BETA_1) * gradient
        v *= BETA_2
        v += (1 - BETA_2) * gradient**2
        m_share, v_share = 1 - BETA_1 ** (step + 1), 1 - BETA_2 ** (step + 1)
        weights -= (learning_rate / m_share) * m / (v**0.5 / sqrt(v_share) + EPS)


def warmed_up(learning_rate: float, step: int, warmup: int) -> float:
    """Return the learning rate of `step` (0-based), which rises in a straight line over the first `warmup` steps."""
    return learning_rate * min(1.0, (step + 1) / warmup) if warmup else learning_rate


def global_norm(gradient: Array) -> float:
    """Return the Euclidean length of the whole gradient."""
    return float((gradient @ gradient) ** 0.5)


def clip_scale(norm: float, clip: float) -> float:
    """Return the factor that makes a gradient of length `norm` at most `clip` long; 1 where `clip` is 0."""
    return clip / norm if clip and norm > clip else 1.0


def average(ema: Array, weights: Array, decay: float, step: int) -> None:
    """Move the running average `ema` in place towards `weights`: ema ← d ema + (1 − d) weights.

    The decay d = min(decay, (1 + step) / (10 + step)) rises from 0.1: a short run's average is of weights it has had,
    not of those it started from.
    """
    d = min(decay, (1 + step) / (10 + step))
    ema *= d
    ema += (1 - d) * weights
