"""Images as files have them and as networks do: their range, and which way they look."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

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
