"""Guidance by extrapolation: from the prediction of a worse denoiser through that of a better one, and beyond.

    eps = eps_other + w (eps_conditional − eps_other),   x_0 likewise

The scores, −eps / σ, are combined alike: the result is the score of p_other^(1 − w) p_conditional^w at each time.
"""

from __future__ import annotations

from math import inf
from typing import Any

from tinyddpm.backend import Array, clipped
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.errors import ConfigError
from tinyddpm.guidance.base import Side
from tinyddpm.samplers import level

TINY = 1e-6
"""Least standard deviation: that of a constant prediction is rounding alone, of which no ratio can be taken."""


def cfg(
    conditional: Side,
    unconditional: Side | None,
    *,
    scale: float = 2.0,
    rescale: float = 0.0,
    low: float = 0.0,
    high: float = inf,
) -> Denoiser:
    """Guide away from the model without its condition: classifier-free guidance (Ho, Salimans 2022, arXiv 2207.12598).

    It is the guided prediction of the paper's Algorithm 2 (eq. 6); a sampler does the rest.

    Args:
        conditional: see `Guidance`.
        unconditional: see `Guidance`.
        scale: w; 0 is the unconditional alone, 1 the conditional alone. The paper's own w (eq. 6) is this one minus 1.
        rescale: φ, in [0, 1]: how far the standard deviation of each sample's predicted x_0, raised by a large scale,
            is brought back to the conditional's (Lin et al. 2023, arXiv 2305.08891, section 3.4, which takes 0.7).
        low: guide where the noise level σ = √((1 − alpha_bar) / alpha_bar) is above this; elsewhere the prediction is
            the conditional's (Kynkäänniemi et al. 2024, arXiv 2404.07724).
        high: guide where σ is no more than this.

    Raises:
        ConfigError: an option is out of its range, or there is no unconditional denoiser.
    """
    if unconditional is None:
        raise ConfigError(
            "guidance 'cfg' needs predictions without a condition, which this model has not learned: "
            "it has no condition, or was trained without --condition-dropout"
        )
    return _Extrapolation(conditional, unconditional, scale, rescale, low, high)


def auto(
    conditional: Side,
    unconditional: Side | None,
    *,
    weak: Side | None = None,
    scale: float = 2.0,
    low: float = 0.0,
    high: float = inf,
) -> Denoiser:
    """Guide away from a weaker model of the same data: autoguidance (Karras et al. 2024, arXiv 2406.02507, eq. 3).

    Args:
        conditional: see `Guidance`.
        unconditional: unused.
        weak: a smaller model, or one that was trained for less time, with the same condition.
        scale: w; 1 is the conditional alone.
        low: see `cfg`.
        high: see `cfg`.

    Raises:
        ConfigError: an option is out of its range, or there is no weak model.
    """
    if weak is None:
        raise ConfigError("guidance 'auto' needs a weaker model: give its checkpoint or run folder as the option weak")
    return _Extrapolation(conditional, weak, scale, 0.0, low, high)


class _Extrapolation:
    """The denoiser that `cfg` and `auto` return; `other` is the worse denoiser, which it leads away from."""

    def __init__(self, conditional: Side, other: Side, scale: float, rescale: float, low: float, high: float) -> None:
        if not 0 <= scale < inf:
            raise ConfigError(f"scale is {scale}: give a number from 0, where 1 is the conditional model alone")
        if not 0 <= rescale <= 1:
            raise ConfigError(f"rescale is {rescale}: give a number from 0 (not at all) to 1")
        if not 0 <= low < high:
            raise ConfigError(f"low is {low} and high {high}: give noise levels with 0 <= low < high")
        self.conditional, self.scale, self.rescale, self.low, self.high = conditional, scale, rescale, low, high
        self.pair = conditional.beside(other)

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the guided prediction for x_t, (N, ...)."""
        process = self.conditional.process
        now = level(process, t)
        sigma = now.ratio if now.alpha else inf
        if self.scale == 1 or not self.low < sigma <= self.high:
            return self.conditional(x_t, t)
        towards, away = self.pair(x_t, t)
        x_0 = away.x_0 + self.scale * (towards.x_0 - away.x_0)
        eps = away.eps + self.scale * (towards.eps - away.eps)
        if self.rescale > 0:
            xp = process.backend.xp
            ratio = _deviation(xp, towards.x_0) / _deviation(xp, x_0)
            x_0 = x_0 * (self.rescale * ratio + (1 - self.rescale))
            eps = process.predict_eps(x_t, t, x_0)
        return Prediction(x_0, eps, towards.fraction)


def _deviation(xp: Any, x_0: Array) -> Array:
    """Return each sample's standard deviation over its elements, at least `TINY`, (N, 1, ...)."""
    return clipped(xp, xp.std(x_0, axis=tuple(range(1, x_0.ndim)), keepdims=True), TINY)
