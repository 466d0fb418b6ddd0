"""The end of a training step over flat buffers: the gradient's norm, clipping, Adam and running averages of weights.

All numbers that depend on the step are computed on the device, into one small array of factors. The host reads none of
them during the step, so that the step can be recorded as a graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from array_api_compat import device

from tinyddpm.backend import Array
from tinyddpm.ops.base import Family


@dataclass(frozen=True)
class Descent:
    """Settings of the optimiser, constant over a training.

    Attributes:
        clip: largest norm of the gradient; a longer gradient is scaled down to it. 0 for no limit.
        decay: largest decay of the running average of the weights.
        weight_decay: λ of AdamW: in each step a matrix loses the share lr λ of itself.
        beta_1: β₁, Adam's decay of the running mean of the gradient.
        beta_2: β₂, Adam's decay of the running mean of the squared gradient.
        eps: ε, which Adam adds to √v̂.
    """

    clip: float
    decay: float
    weight_decay: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    eps: float = 1e-8


class Factor(IntEnum):
    """Indices into the array of factors. A running mean becomes KEPT times itself plus NEW times the new value."""

    FINITE = 0
    CLIP = 1
    M_KEPT = 2
    M_NEW = 3
    V_KEPT = 4
    V_NEW = 5
    RATE = 6
    """The learning rate over 1 − β₁ᵏ."""
    ROOT_V = 7
    """√(1 − β₂ᵏ)."""
    EMA_KEPT = 8
    EMA_NEW = 9
    LOSS = 10
    NORM = 11


class Optimisation(Family):
    """Operations on the optimiser's state. Unlike other operations they write to their arguments, in place."""

    def lengths(self, gradient: Array) -> Array:
        """Return the Euclidean norms of the k parts that a backend cuts `gradient` into, (k,); here k = 1."""
        return self.xp.reshape(gradient @ gradient, (1,)) ** 0.5

    def step_factors(self, descent: Descent, step: Array, rate: Array, loss: Array, lengths: Array) -> Array:
        """Return the factors of a step in the order of `Factor`, with the dtype of `lengths`.

        CLIP scales the gradient to a norm of at most `clip`. Adam's averages start at 0, so they are divided by
        1 − βᵏ, k = step + 1 (Kingma, Ba 2014, Algorithm 1). The decay of the running average, the lesser of `decay` and
        k / (9 + k), rises from 0.1, so that the average of a short run is not dominated by its initial weights. If the
        loss or the gradient is not finite, every KEPT is 1, every NEW and RATE are 0, and the step changes nothing.

        Args:
            descent: settings of the optimiser.
            step: (1,) int64, 0-based.
            rate: (1,) float64, learning rate of the step.
            loss: (1,), loss of the step.
            lengths: (k,), norms of the parts of the whole gradient; the sum of their squares is the squared norm.
        """
        xp, float64 = self.xp, self.xp.float64
        k = xp.astype(step, float64) + 1
        loss, norm = xp.astype(loss, float64), xp.sum(xp.astype(lengths, float64) ** 2, keepdims=True) ** 0.5
        finite = xp.isfinite(loss) & xp.isfinite(norm)
        one, zero = xp.ones_like(k), xp.zeros_like(k)
        b_1, b_2 = descent.beta_1, descent.beta_2
        decay = xp.minimum(descent.decay * one, k / (9 + k))
        clip = xp.where(norm > descent.clip, descent.clip / norm, one) if descent.clip else one

        def if_finite(value: Array, otherwise: Array) -> Array:
            return xp.where(finite, value, otherwise)

        by_place = {
            Factor.FINITE: if_finite(one, zero),
            Factor.CLIP: clip,
            Factor.M_KEPT: if_finite(b_1 * one, one),
            Factor.M_NEW: if_finite((1 - b_1) * one, zero),
            Factor.V_KEPT: if_finite(b_2 * one, one),
            Factor.V_NEW: if_finite((1 - b_2) * one, zero),
            Factor.RATE: if_finite(rate / (1 - b_1**k), zero),
            Factor.ROOT_V: (1 - b_2**k) ** 0.5,
            Factor.EMA_KEPT: if_finite(decay, one),
            Factor.EMA_NEW: if_finite(1 - decay, zero),
            Factor.LOSS: loss,
            Factor.NORM: norm,
        }
        return xp.astype(xp.concat([by_place[place] for place in Factor]), lengths.dtype)

    def decay(self, descent: Descent, factors: Array, rate: Array, matrices: Array, weights: Array) -> None:
        """Apply AdamW's decay to the matrices among the weights: w ← w − lr λ w (arXiv 1711.05101, Algorithm 2).

        λ is multiplied by the whole learning rate, as in PyTorch; in the paper, by its schedule's factor alone. This
        precedes `adam`. If the step is not finite, it changes nothing.

        Args:
            descent: settings of the optimiser.
            factors: factors of the step.
            rate: (1,) float64, learning rate of the step.
            matrices: (n,), 1 where the weight is an element of a matrix, 0 elsewhere.
            weights: (n,), changed in place.
        """
        taken = self.xp.astype(descent.weight_decay * rate, weights.dtype) * factors[Factor.FINITE]
        weights *= 1 - taken * matrices

    def adam(
        self, descent: Descent, factors: Array, gradient: Array, weights: Array, ema: Array, m: Array, v: Array
    ) -> None:
        """Apply Adam (Kingma, Ba 2014, Algorithm 1), then the running average; change nothing if a step is not finite.

        With g the clipped gradient, m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², w ← w − lr m̂ / (√v̂ + ε), where m̂
        and v̂ are m / (1 − β₁ᵏ) and v / (1 − β₂ᵏ); then ema ← d ema + (1 − d) w.

        Args:
            descent: settings of the optimiser.
            factors: factors of the step.
            gradient: (n,), part of the flat gradient, not changed.
            weights: (n,), the same part of the flat weights, changed in place.
            ema: (n,), running average of these weights, changed in place.
            m: (n,), running mean of the gradient, changed in place.
            v: (n,), running mean of the squared gradient, changed in place.
        """
        f = {place: factors[place] for place in Factor}
        zero = self.xp.zeros((), dtype=gradient.dtype, device=device(gradient))
        g = self.xp.where(f[Factor.FINITE] > 0, f[Factor.CLIP] * gradient, zero)
        m *= f[Factor.M_KEPT]
        m += f[Factor.M_NEW] * g
        v *= f[Factor.V_KEPT]
        v += f[Factor.V_NEW] * g**2
        weights -= f[Factor.RATE] * m / (v**0.5 / f[Factor.ROOT_V] + descent.eps)
        ema *= f[Factor.EMA_KEPT]
        ema += f[Factor.EMA_NEW] * weights

    def power_average(self, exponent: float, step: Array, factors: Array, weights: Array, average: Array) -> None:
        """Include the weights after a step in a power-function average. Change nothing if the step is not finite.

        average ← β average + (1 − β) w with β = (1 − 1/k)^(γ+1), k = step + 1 (EDM2, 2312.02696, section 3.1). After
        the first step the average is w; later, the weights of each step k count nearly in proportion to k^γ. The update
        uses 1 − β alone: in float32, a β near 1 would lose most of the digits of 1 − β.

        Args:
            exponent: γ.
            step: (1,) int64, 0-based.
            factors: factors of the step.
            weights: (n,), part of the flat weights after the step.
            average: (n,), the same part of their average, changed in place.
        """
        share = 1 - (1 - 1 / (self.xp.astype(step, self.xp.float64) + 1)) ** (exponent + 1)
        share = self.xp.where(factors[Factor.FINITE] > 0, share, self.xp.zeros_like(share))
        average += self.xp.astype(share, average.dtype) * (weights - average)
