"""Images as files have them and as networks do: their range, their size, and which way they look."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace, device

from tinyddpm.backend import Array


def to_model(images: Array) -> Array:
    """Return uint8 `images` as float32 in [-1, 1], x / 127.5 - 1 (DDPM, section 3.3). Takes any backend's arrays."""
    xp = array_namespace(images)
    return xp.astype(images, xp.float32) / 127.5 - 1.0


def from_model(x: Array) -> Array:
    """Return `x` in [-1, 1] as uint8 in [0, 255], rounded to nearest and clipped. Takes any backend's arrays."""
    xp = array_namespace(x)
    return xp.astype(xp.clip(xp.round((x + 1.0) * 127.5), 0.0, 255.0), xp.uint8)


def flip_horizontally(x: Array, mask: Array) -> Array:
    """Return `x` (n, H, W, C) with the images mirrored, left to right, where `mask` (n,) is True."""
    xp: Any = array_namespace(x, mask)
    return xp.where(xp.reshape(mask, (-1, 1, 1, 1)), xp.flip(x, axis=2), x)


def squares(x: Array, factor: int) -> Array:
    """Return `x` (n, H, W, C) cut into squares: (n, H/factor, factor, W/factor, factor, C)."""
    n, height, width, channels = x.shape
    xp: Any = array_namespace(x)
    return xp.reshape(x, (n, height // factor, factor, width // factor, factor, channels))


def shrunk(images: Array, factor: int) -> Array:
    """Return uint8 `images` with each square of factor × factor pixels made one: their mean, rounded, half up.

    It is computed in integers, so that every backend has the same.
    """
    xp: Any = array_namespace(images)
    area = factor * factor
    total = xp.sum(squares(xp.astype(images, xp.int32), factor), axis=(2, 4), dtype=xp.int32)
    return xp.astype((2 * total + area) // (2 * area), xp.uint8)


def bicubic(x: Array, height: int, width: int) -> Array:
    """Return `x` (n, h, w, C) enlarged to (n, height, width, C) by Keys's cubic convolution (1981, with a = −½).

    Pixels have their centres at half numbers, as in Pillow.
    """
    xp: Any = array_namespace(x)
    y = xp.tensordot(x, _interpolation(x, height, axis=1), axes=((1,), (1,)))  # (n, w, C, height)
    y = xp.tensordot(y, _interpolation(x, width, axis=2), axes=((1,), (1,)))  # (n, C, height, width)
    return xp.permute_dims(y, (0, 2, 3, 1))


def _interpolation(x: Array, size: int, axis: int) -> Array:
    """Return the weight of each pixel of x along an axis in each of `size` pixels, (size, pixels).

    The kernel is W(d) = 3/2 |d|³ − 5/2 |d|² + 1 up to |d| = 1, and −1/2 |d|³ + 5/2 |d|² − 4 |d| + 2 up to 2. What of it
    lies beyond an edge is left out, and the rest made to sum to one.
    """
    xp: Any = array_namespace(x)
    pixels = x.shape[axis]
    places, centres = ((xp.arange(n, dtype=x.dtype, device=device(x)) + 0.5) * (pixels / n) for n in (pixels, size))
    d = xp.abs(places[None, :] - centres[:, None])
    near, far = (1.5 * d - 2.5) * d * d + 1.0, ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    weights = xp.where(d < 1.0, near, xp.where(d < 2.0, far, xp.zeros_like(d)))
    return weights / xp.sum(weights, axis=1, keepdims=True)
