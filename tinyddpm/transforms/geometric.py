"""Transforms that move pixels: mirroring, shifts by whole pixels, and windows enlarged to the image's size."""

from __future__ import annotations

from array_api_compat import array_namespace, device

from tinyddpm.backend import Array
from tinyddpm.errors import ConfigError
from tinyddpm.ops.images import bilinear, flip_horizontally, gathered
from tinyddpm.transforms.base import EDM_P, Chance, check_image, check_p


class Flip:
    """Mirrors images left to right. The number that describes the change is 1 for a mirrored image, else 0.

    Args:
        sample_shape: (H, W, C).
        p: the probability.

    Raises:
        ConfigError: the samples are no images, or p is out of range.
    """

    numbers = 1

    def __init__(self, sample_shape: tuple[int, ...], *, p: float = 0.5) -> None:
        check_image("flip", sample_shape)
        check_p("flip", p)
        self.p = p

    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        """Return images (N, H, W, C), and numbers (N, 1)."""
        mirrored = chance.happens(0, self.p)
        return flip_horizontally(x_0, mirrored), chance.xp.astype(mirrored, x_0.dtype)[:, None]


class Shift:
    """Shifts images by whole pixels, vertically and horizontally, each distance uniform over −most, …, most.

    The uncovered margin shows the image reflected about its outermost pixels, which are not repeated. The numbers that
    describe the change are the distances down and to the right, divided by `most`.

    Args:
        sample_shape: (H, W, C).
        most: the largest distance in pixels, below the height and the width.
        p: the probability.

    Raises:
        ConfigError: the samples are no images, or an option is out of range.
    """

    numbers = 2

    def __init__(self, sample_shape: tuple[int, ...], *, most: int = 2, p: float = EDM_P) -> None:
        check_image("shift", sample_shape)
        check_p("shift", p)
        side = min(sample_shape[:2])
        if not 1 <= most < side:
            advice = f"give from 1 to {side - 1} pixels" if side > 1 else "leave it out, images have one row or column"
            raise ConfigError(f"transforms.shift.most is {most}: {advice}")
        self.most, self.p = most, p

    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        """Return images (N, H, W, C), and numbers (N, 2)."""
        xp, (_, height, width, _) = chance.xp, x_0.shape
        drawn = chance.integers(1, 2 * self.most + 1, 2) - self.most
        by = xp.where(chance.happens(0, self.p)[:, None], drawn, xp.zeros_like(drawn))
        rows, columns = (
            _reflected(_places(by, height) - by[:, :1], height),
            _reflected(_places(by, width) - by[:, 1:], width),
        )
        return gathered(x_0, rows, columns), xp.astype(by, x_0.dtype) / self.most


class Crop:
    """Cuts out a window of the image's proportions and enlarges it to the image's size, by bilinear interpolation.

    The window's area, as a fraction of the image's, is uniform over [least, 1], and its position uniform over those
    where it fits. The numbers that describe the change are the reduction of the window's sides and the displacement of
    its centre, down and to the right, each divided by the largest possible.

    Args:
        sample_shape: (H, W, C).
        least: the smallest fraction of the area, in (0, 1).
        p: the probability.

    Raises:
        ConfigError: the samples are no images, or an option is out of range.
    """

    numbers = 3

    def __init__(self, sample_shape: tuple[int, ...], *, least: float = 0.5, p: float = EDM_P) -> None:
        check_image("crop", sample_shape)
        check_p("crop", p)
        if not 0 < least < 1:
            raise ConfigError(f"transforms.crop.least is {least}: give a share of the area between 0 and 1")
        self.least, self.p = least, p

    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        """Return images (N, H, W, C), and numbers (N, 3)."""
        xp, (_, height, width, _) = chance.xp, x_0.shape
        side = (1.0 - (1.0 - self.least) * chance.uniform(1, 1)) ** 0.5
        side = xp.where(chance.happens(0, self.p)[:, None], side, xp.ones_like(side))
        left_over, place = 1.0 - side, chance.uniform(2, 2)
        rows, columns = (
            pixels * place[:, axis, None] * left_over
            + (xp.arange(pixels, dtype=x_0.dtype, device=device(x_0)) + 0.5) * side
            - 0.5
            for axis, pixels in enumerate((height, width))
        )
        told = xp.concat([left_over, (2.0 * place - 1.0) * left_over], axis=1) / (1.0 - self.least**0.5)
        return bilinear(x_0, rows, columns), told


def _places(like: Array, pixels: int) -> Array:
    """Return the indices of the pixels along an axis, (1, pixels), with the type and the device of `like`."""
    return array_namespace(like).arange(pixels, dtype=like.dtype, device=device(like))[None, :]


def _reflected(places: Array, pixels: int) -> Array:
    """Return indices with those up to pixels − 1 beyond an edge reflected about the outermost pixel of that edge."""
    xp = array_namespace(places)
    return pixels - 1 - xp.abs(pixels - 1 - xp.abs(places))
