"""A transform that changes brightness, contrast, hue and saturation."""

from __future__ import annotations

from math import log, pi

from tinyddpm.backend import Array
from tinyddpm.backend.array import clipped
from tinyddpm.errors import ConfigError
from tinyddpm.transforms.base import EDM_P, Chance, check_image, check_p


class Colour:
    """Changes brightness, contrast, hue and saturation, each with probability p.

    They are those of EDM's code, which has them from ADA (Karras et al. 2020, arXiv 2006.06676, appendix B). The models
    of EDM's paper are trained with its geometric transforms alone (2206.00364, table 6).

    Write a pixel as x = m + d, where m is the mean of its channels. The luma axis is the direction of the greys, and v
    the unit vector along it. With w_b, w_c and w_s standard normal and θ uniform over ± π `hue`, x becomes

        2^(contrast w_c) (m + brightness w_b + 2^(saturation w_s) d'),   d' = cos θ d + sin θ v × d

    clipped to [−1, 1]; EDM does not clip. Images without three channels change in brightness and contrast alone. The
    numbers that describe the change are w_b, w_c, and for three channels also cos θ − 1, sin θ and w_s.

    Args:
        sample_shape: (H, W, C).
        brightness: standard deviation of the summand; black to white is 2.
        contrast: standard deviation of the binary logarithm of the factor.
        hue: the largest rotation about the luma axis, in half turns, in [0, 1].
        saturation: standard deviation of the binary logarithm of the factor of the deviation from grey, d.
        p: the probability of each of the four changes.

    Raises:
        ConfigError: the samples are no images, or an option is out of range.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        *,
        brightness: float = 0.2,
        contrast: float = 0.5,
        hue: float = 1.0,
        saturation: float = 1.0,
        p: float = EDM_P,
    ) -> None:
        check_image("colour", sample_shape)
        check_p("colour", p)
        for name, value in {"brightness": brightness, "contrast": contrast, "saturation": saturation}.items():
            if not 0 <= value <= 10:
                raise ConfigError(f"transforms.colour.{name} is {value}: it must lie in [0, 10]")
        if not 0 <= hue <= 1:
            raise ConfigError(f"transforms.colour.hue is {hue}: it must lie in [0, 1], 1 for a half turn either way")
        self.coloured = sample_shape[-1] == 3
        self.numbers = 5 if self.coloured else 2
        self.brightness, self.contrast, self.hue, self.saturation, self.p = brightness, contrast, hue, saturation, p

    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        """Return images (N, H, W, C), and numbers (N, 5) for three channels, else (N, 2)."""
        xp = chance.xp

        def by_chance(draw: int, value: Array) -> Array:
            return xp.where(chance.happens(draw, self.p), value, xp.zeros_like(value))

        def each(value: Array) -> Array:
            return xp.reshape(value, (-1, 1, 1, 1))

        w_b, w_c = by_chance(0, chance.normal(1)), by_chance(2, chance.normal(3))
        said = [w_b, w_c]
        m = xp.mean(x_0, axis=-1, keepdims=True)
        d = x_0 - m
        if self.coloured:
            theta = by_chance(4, (2.0 * chance.uniform(5) - 1.0) * (pi * self.hue))
            w_s = by_chance(6, chance.normal(7))
            said += [xp.cos(theta) - 1.0, xp.sin(theta), w_s]
            turned = (xp.roll(d, 1, axis=-1) - xp.roll(d, -1, axis=-1)) / 3**0.5
            d = each(xp.exp(self.saturation * log(2) * w_s)) * (each(xp.cos(theta)) * d + each(xp.sin(theta)) * turned)
        told = xp.stack(said, axis=1)
        y = each(xp.exp(self.contrast * log(2) * w_c)) * (m + each(self.brightness * w_b) + d)
        changed = xp.any(told != 0.0, axis=1)
        return xp.where(each(changed), clipped(xp, y, -1.0, 1.0), x_0), told
