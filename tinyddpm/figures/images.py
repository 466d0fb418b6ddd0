"""Sample images as grids, PNG, NPZ and GIF files. An image is uint8 (H, W, C), a batch of them (n, H, W, C)."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyddpm.errors import ConfigError, DataError
from tinyddpm.figures.marks import KEY, Mark, of_sample, to_text
from tinyddpm.files import replacing
from tinyddpm.samplers.spacings import moments

Pixels: TypeAlias = NDArray[np.uint8]

TILE = 48
"""By default images are enlarged until their longer side has at least this many pixels."""

WHITE = 255

FONT, LINE, LETTERS = 12, 16, 28
"""Captions beside images: font size and line height in pixels, and most letters in a line."""
WIDEST = 16
"""Most images in a row beside a caption; further ones go into the next row."""


def grid(images: Pixels, columns: int | None = None, scale: int | None = None, gap: int = 2) -> Pixels:
    """Arrange `images` (n, H, W, C) row by row in one white picture, uint8 (H', W', C).

    Args:
        images: uint8, one or three channels.
        columns: images in a row; None makes the picture about square.
        scale: each pixel becomes scale × scale pixels; None enlarges images smaller than `TILE`.
        gap: white pixels around every image.

    Raises:
        DataError: `images` cannot be drawn.
        ConfigError: `columns`, `scale` or `gap` is too small.
    """
    _require_drawable(images, ndim=4)
    n, H, W, C = images.shape
    columns = square_columns(images) if columns is None else columns
    scale = math.ceil(TILE / max(H, W)) if scale is None else scale
    for name, value, least in (("columns", columns, 1), ("scale", scale, 1), ("gap", gap, 0)):
        if value < least:
            raise ConfigError(f"{name} is {value}: a grid needs at least {least}")
    rows = math.ceil(n / columns)
    high, wide = H * scale + gap, W * scale + gap
    picture = np.full((rows * high + gap, columns * wide + gap, C), WHITE, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * high + gap, i % columns * wide + gap
        picture[top : top + H * scale, left : left + W * scale] = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return picture


def square_columns(images: Pixels) -> int:
    """Return the number of columns that makes a grid of `images` (n, H, W, C) about square."""
    n, (H, W) = len(images), images.shape[1:3]
    return min(n, math.ceil(math.sqrt(n * H / W)))


def captioned(images: Pixels, words: Sequence[str], scale: int | None = None, gap: int = 2) -> Pixels:
    """Arrange `images` (n, H, W, C) in one white picture with a row for each caption, written to its left.

    Args:
        images: uint8, one or three channels.
        words: the caption of each image. Rows are in the order in which captions first occur.
        scale: as in `grid`.
        gap: as in `grid`.

    Raises:
        DataError: `images` cannot be drawn.
        ConfigError: `scale` or `gap` is too small.
    """
    from PIL import Image, ImageDraw, ImageFont

    _require_drawable(images, ndim=4)
    rows: dict[str, list[int]] = {}
    for number, text in enumerate(words):
        rows.setdefault(text, []).append(number)
    lines = [
        (text if i == 0 else "", of[i : i + WIDEST]) for text, of in rows.items() for i in range(0, len(of), WIDEST)
    ]
    columns = max(len(numbers) for _, numbers in lines)
    filled = np.full((len(lines), columns, *images.shape[1:]), WHITE, np.uint8)
    for row, (_, numbers) in zip(filled, lines, strict=True):
        row[: len(numbers)] = images[numbers]
    right = grid(filled.reshape(-1, *images.shape[1:]), columns, scale, gap)

    high = (len(right) - gap) // len(lines)
    font, each = ImageFont.load_default(FONT), max(1, high // LINE)
    texts = ["\n".join(textwrap.wrap(text, LETTERS, max_lines=each, placeholder=" …")) for text, _ in lines]
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    wide = max(math.ceil(measure.multiline_textbbox((0, 0), text, font)[2]) for text in texts) + 2 * FONT
    left = Image.new("L", (wide, len(right)), WHITE)
    draw = ImageDraw.Draw(left)
    for row_number, text in enumerate(texts):
        draw.multiline_text((FONT, gap + row_number * high + (high - gap) // 2), text, 0, font, anchor="lm", spacing=2)
    margin = np.repeat(np.asarray(left)[..., None], images.shape[-1], axis=-1)
    return np.concatenate([margin, right], axis=1)


def film_strip(
    frames: Sequence[Pixels], rows: int = 4, columns: int = 10, scale: int | None = None, gap: int = 2
) -> Pixels:
    """Return the denoising as one picture, uint8 (H', W', C): a row for each sample, time from left to right.

    Args:
        frames: one batch (n, H, W, C) for each moment, from noise to image, all of the same shape.
        rows: number of samples shown, the first ones.
        columns: number of moments shown, the first and the last among them.
        scale: as in `grid`.
        gap: as in `grid`.

    Raises:
        DataError: `frames` cannot be drawn.
        ConfigError: a number is too small.
    """
    if rows < 1:
        raise ConfigError(f"rows is {rows}: a film strip needs at least 1")
    _require_one_shape(frames)
    shown = np.stack([frames[i][:rows] for i in moments(len(frames), columns)], axis=1)  # (rows, columns, H, W, C)
    return grid(shown.reshape(-1, *shown.shape[2:]), shown.shape[1], scale, gap)


def save_png(path: str | os.PathLike[str], image: Pixels, mark: Mark | None = None) -> None:
    """Write `image`, uint8 (H, W, C) of one or three channels, as a PNG file that contains `mark`.

    Raises:
        DataError: `image` cannot be drawn, or the file cannot be written.
    """
    from PIL.PngImagePlugin import PngInfo

    picture, texts = _picture(image), PngInfo()
    if mark is not None:
        texts.add_text(KEY, to_text(mark))
    with replacing(path) as file:
        picture.save(file, format="PNG", pnginfo=texts)


def save_images(folder: str | os.PathLike[str], images: Pixels, start: int = 0, mark: Mark | None = None) -> None:
    """Write each of `images` (n, H, W, C) as a PNG file: `000000.png` and so on, numbered from `start`.

    Each file contains the mark with its own sample's entry only.

    Raises:
        DataError: `images` cannot be drawn, or a file cannot be written.
    """
    _require_drawable(images, ndim=4)
    for i, image in enumerate(images):
        save_png(Path(folder) / f"{start + i:06d}.png", image, mark and of_sample(mark, i))


def save_npz(
    path: str | os.PathLike[str],
    samples: NDArray[Any],
    labels: ArrayLike | None = None,
    words: Sequence[str] | None = None,
    mark: Mark | None = None,
) -> None:
    """Write samples as a compressed NPZ file: uint8 (n, H, W, C) as `images`, anything else as `points`.

    Args:
        path: the file to write.
        samples: images with any number of channels, or points (n, d).
        labels: (n,), the class of each sample, stored as int64 `labels`.
        words: the caption of each sample, stored as `captions`.
        mark: provenance record, stored as the JSON string `tinyddpm`.

    Raises:
        DataError: the number of labels is not the number of samples, or the file cannot be written.
    """
    arrays = {"images" if samples.dtype == np.uint8 else "points": samples}
    if labels is not None:
        arrays["labels"] = np.asarray(labels, np.int64)
        if arrays["labels"].shape != (len(samples),):
            raise DataError(f"{len(samples)} samples and labels of shape {arrays['labels'].shape}: give one for each")
    if words is not None:
        arrays["captions"] = np.asarray(words, np.str_)
    if mark is not None:
        arrays[KEY] = np.asarray(to_text(mark))
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def save_gif(
    path: str | os.PathLike[str],
    frames: Sequence[Pixels],
    milliseconds: int = 100,
    hold_last: int = 2000,
    mark: Mark | None = None,
) -> None:
    """Write `frames`, each uint8 (H, W, C), as an animated GIF that repeats forever.

    Durations are rounded to hundredths of a second, GIF's unit. Each frame is reduced to 256 colours. Consecutive equal
    frames are merged into one of their total duration.

    Args:
        path: the file to write.
        frames: pictures of the same shape.
        milliseconds: duration of a frame, from 20 (browsers slow down anything faster) to 60000.
        hold_last: duration of the last frame, in the same range.
        mark: provenance record, stored as the file's comment.

    Raises:
        DataError: the frames cannot be drawn, or the file cannot be written.
        ConfigError: a time is out of range.
    """
    for name, value in (("milliseconds", milliseconds), ("hold_last", hold_last)):
        if not 20 <= value <= 60_000:
            raise ConfigError(f"{name} is {value}: a GIF frame stays from 20 to 60000 milliseconds")
    _require_one_shape(frames)
    first, *rest = [_picture(frame) for frame in frames]
    times = [round(t, -1) for t in [milliseconds] * len(rest) + [hold_last]]
    comment = {} if mark is None else {"comment": to_text(mark).encode()}
    with replacing(path) as file:
        first.save(file, format="GIF", save_all=True, append_images=rest, duration=times, loop=0, **comment)


def _picture(image: Pixels) -> Any:
    """Return `image` (H, W, C) as a Pillow image, grey or RGB."""
    from PIL import Image

    _require_drawable(image, ndim=3)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _require_one_shape(frames: Sequence[Pixels]) -> None:
    shapes = sorted({frame.shape for frame in frames})
    if len(shapes) != 1:
        raise DataError(f"frames have the shapes {shapes}: give at least one, all of the same shape")


def _require_drawable(images: Pixels, ndim: int) -> None:
    axes = ", ".join("nHWC"[-ndim:])
    if images.dtype != np.uint8 or images.ndim != ndim or images.size == 0:
        raise DataError(f"cannot draw {images.dtype} {images.shape}: images are uint8 ({axes}), and none may be empty")
    if images.shape[-1] not in (1, 3):
        raise DataError(f"cannot draw {images.shape[-1]} channels: PNG and GIF take 1 or 3 of them; save these as .npz")
