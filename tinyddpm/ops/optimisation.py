"""The end of a training step: the gradient's length, clipping, Adam and running averages, over flat buffers.

Whatever depends on the step comes in one small array of factors. Nothing is asked of the device before all is done, so
that it can be recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from array_api_compat import device

from tinyddpm.backend import Array
from tinyddpm.ops.base import Family


@dataclass(frozen=True)
class Descent:
    """What does not change from one step of a training to the next.

    Attributes:
        clip: the length that the gradient may have; 0 for any.
        decay: the running average's, in the long run.
        weight_decay: what a matrix loses of itself in a step, times the learning rate.
        beta_1: Adam's decay of the running mean of the gradient.
        beta_2: of the running mean of its square.
        eps: what Adam adds to a root.
    """

    clip: float
    decay: float
    weight_decay: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    eps: float = 1e-8


class Factor(IntEnum):
    """Places in the array of factors; "kept" is the share of a running mean that stays, "new" of what is added."""

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
    """Operations that change what they are given: a state's buffers are written in place."""

    def lengths(self, gradient: Array) -> Array:
        """Return the Euclidean lengths of parts of `gradient`, (k,): the squares of all parts' add up to |g|²."""
        return self.xp.reshape(gradient @ gradient, (1,)) ** 0.5

    def step_factors(self, descent: Descent, step: Array, rate: Array, loss: Array, lengths: Array) -> Array:
        """Return the factors of a step, in the type of `lengths`: see `Factor`.

        The gradient is scaled to be at most `clip` long. Adam's averages start at 0, and so are divided by 1 − βᵏ,
        k = step + 1 (Kingma, Ba 2014, Algorithm 1). The running average's decay, min(decay, k / (9 + k)), rises from
        0.1: a short run's average is of weights it has had, not of those it started from. Where loss or gradient is not
        finite, all that is kept is kept whole, and nothing new is added.

        Args:
            descent: the training's settings.
            step: (1,) int64, 0-based.
            rate: (1,) float64, the step's learning rate.
            loss: (1,).
            lengths: (k,), of the whole gradient.
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
        """Take from the matrices among the weights what AdamW does: w ← w − lr λ w (arXiv 1711.05101, Algorithm 2).

        It comes before Adam's step. Where that step is not finite, nothing is changed.

        Args:
            descent: the training's settings.
            factors: of the step.
            rate: (1,) float64, its learning rate.
            matrices: (n,), 1 where the weight is an element of a matrix, 0 elsewhere.
            weights: (n,), changed in place.
        """
        taken = self.xp.astype(descent.weight_decay * rate, weights.dtype) * factors[Factor.FINITE]
        weights *= 1 - taken * matrices

    def adam(
        self, descent: Descent, factors: Array, gradient: Array, weights: Array, ema: Array, m: Array, v: Array
    ) -> None:
        """Do a step: Adam's (Kingma, Ba 2014, Algorithm 1), then the running average's; or nothing if it is not finite.

        With g the clipped gradient, m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², w ← w − lr m̂ / (√v̂ + ε), where m̂
        and v̂ are m / (1 − β₁ᵏ) and v / (1 − β₂ᵏ); then ema ← d ema + (1 − d) w.

        Args:
            descent: the training's settings.
            factors: of the step.
            gradient: (n,), part of the flat gradient, left as it is.
            weights: (n,), the same part of the flat weights, changed in place; the others likewise.
            ema: running average of the weights.
            m: running mean of the gradient.
            v: running mean of its square.
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
        """Count a step's weights in a power-function average, or do nothing if the step is not finite.

        average ← β average + (1 − β) w with β = (1 − 1/k)^(γ+1), k = step + 1 (EDM2, 2312.02696, section 3.1): the
        first step's weights alone, then all weights in proportion to k^γ. Only 1 − β is used, for in float32 a β near 1
        would lose most of what it says.

        Args:
            exponent: γ.
            step: (1,) int64, 0-based.
            factors: of the step.
            weights: (n,), part of the flat weights as the step left them.
            average: (n,), the same part of their average, changed in place.
        """
        share = 1 - (1 - 1 / (self.xp.astype(step, self.xp.float64) + 1)) ** (exponent + 1)
        share = self.xp.where(factors[Factor.FINITE] > 0, share, self.xp.zeros_like(share))
        average += self.xp.astype(share, average.dtype) * (weights - average)
