"""Conversions of images: between uint8 and [-1, 1], to other sizes, mirrored, and sampled between pixels."""

from __future__ import annotations

from array_api_compat import array_namespace, device

from tinyddpm.backend import Array
from tinyddpm.backend.array import clipped


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
    xp = array_namespace(x)
    return xp.where(xp.reshape(mask, (-1, 1, 1, 1)), xp.flip(x, axis=2), x)


def gathered(x: Array, rows: Array, columns: Array) -> Array:
    """Return x[n, rows[n, i], columns[n, j]], (n, h, w, C), for int64 `rows` (n, h) and `columns` (n, w)."""
    n, height, width, channels = x.shape
    xp = array_namespace(x)
    first = xp.arange(n, dtype=rows.dtype, device=device(x)) * (height * width)
    places = first[:, None, None] + rows[:, :, None] * width + columns[:, None, :]
    pixels = xp.take(xp.reshape(x, (n * height * width, channels)), xp.reshape(places, (-1,)), axis=0)
    return xp.reshape(pixels, (*places.shape, channels))


def bilinear(x: Array, rows: Array, columns: Array) -> Array:
    """Return `x` (n, H, W, C) interpolated bilinearly at real rows (n, h) and columns (n, w), shape (n, h, w, C).

    Coordinates outside [0, H − 1] and [0, W − 1] are clipped to these intervals.
    """
    (top, bottom, down), (left, right, across) = (
        _neighbours(places, pixels) for places, pixels in ((rows, x.shape[1]), (columns, x.shape[2]))
    )
    down, across = down[:, :, None, None], across[:, None, :, None]
    upper, lower = ((1.0 - across) * gathered(x, row, left) + across * gathered(x, row, right) for row in (top, bottom))
    return (1.0 - down) * upper + down * lower


def _neighbours(places: Array, pixels: int) -> tuple[Array, Array, Array]:
    """Return (before, after, distance): the neighbouring pixels of real coordinates on an axis, and their fractions."""
    xp = array_namespace(places)
    places = clipped(xp, places, 0.0, pixels - 1.0)
    first = xp.floor(places)
    before = xp.astype(first, xp.int64)
    return before, xp.where(before < pixels - 1, before + 1, before), places - first


def squares(x: Array, factor: int) -> Array:
    """Return `x` (n, H, W, C) reshaped into squares, (n, H/factor, factor, W/factor, factor, C)."""
    n, height, width, channels = x.shape
    xp = array_namespace(x)
    return xp.reshape(x, (n, height // factor, factor, width // factor, factor, channels))


def shrunk(images: Array, factor: int) -> Array:
    """Return images of integers in [0, 255] as uint8, each square of factor × factor pixels replaced by its mean.

    The mean is rounded, halves up. It is computed in integers, so that all backends give the same result.
    """
    xp = array_namespace(images)
    area = factor * factor
    total = xp.sum(squares(xp.astype(images, xp.int32), factor), axis=(2, 4), dtype=xp.int32)
    return xp.astype((2 * total + area) // (2 * area), xp.uint8)


def bicubic(x: Array, height: int, width: int) -> Array:
    """Return `x` (n, h, w, C) enlarged to (n, height, width, C) by Keys's cubic convolution (1981, with a = −½).

    The centre of pixel i lies at i + ½, as in Pillow.
    """
    return _stretched(_stretched(x, height, axis=1), width, axis=2)


def _stretched(x: Array, size: int, axis: int) -> Array:
    """Return `x` with `size` pixels along an axis, each a weighted sum of the four nearest pixels.

    A pixel at distance d has the weight W(d) = 3/2 |d|³ − 5/2 |d|² + 1 for |d| ≤ 1, and
    −1/2 |d|³ + 5/2 |d|² − 4 |d| + 2 for 1 < |d| ≤ 2. Weights of pixels beyond an edge are set to 0, and the others
    divided by their sum.
    """
    xp = array_namespace(x)
    pixels = x.shape[axis]
    centre = (xp.arange(size, dtype=x.dtype, device=device(x)) + 0.5) * (pixels / size) - 0.5
    along = (-1, *(1,) * (x.ndim - 1 - axis))
    y = total = 0.0
    for k in (-1, 0, 1, 2):
        place = xp.floor(centre) + k
        d = xp.abs(place - centre)
        weight = xp.where(d < 1.0, (1.5 * d - 2.5) * d * d + 1.0, ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0)
        there, nothing = (place >= 0.0) & (place < pixels), xp.zeros_like(place)
        weight, place = xp.where(there, weight, nothing), xp.where(there, place, nothing)
        pixel = xp.take(x, xp.astype(place, xp.int64), axis=axis)
        y, total = y + xp.reshape(weight, along) * pixel, total + weight
    return y / xp.reshape(total, along)
