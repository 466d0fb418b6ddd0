"""The pictures that samples make, and their files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from tinyddpm.errors import DataError
from tinyddpm.figures.images import (
    WHITE,
    Pixels,
    captioned,
    film_strip,
    grid,
    save_gif,
    save_images,
    save_npz,
    save_png,
    square_columns,
)
from tinyddpm.figures.marks import Mark
from tinyddpm.figures.points import point_picture
from tinyddpm.model.sampling import Samples

HostArray = np.ndarray[Any, Any]

WIDEST = 20
"""Classes beside each other, unless there are so many samples that a picture as wide as high has more columns."""


def picture(samples: Samples, values: HostArray | None = None) -> Pixels:
    """Return all samples in one picture: a grid of images, with columns for each class, or a row for each
    caption; a histogram of points on a line, or a scatter of those in the plane.

    Args:
        samples: what to show.
        values: show these in their place, such as one of the frames.
    """
    values = samples.values if values is None else values
    if values.ndim == 2:
        return point_picture(values)
    if samples.words is not None:
        return captioned(values, samples.words)
    return grid(values) if samples.labels is None else by_class(values, samples.labels)


def by_class(images: Pixels, labels: HostArray) -> Pixels:
    """Return `images` (n, H, W, C) on one picture, uint8 (H', W', C), in which each class has columns of its own.

    It has one, or of few classes several side by side, so that the picture is about as wide as high. Classes stand in
    the order in which they come first; those that do not fit beside each other stand below.

    Args:
        images: uint8, one or three channels.
        labels: (n,) the class of each.

    Raises:
        DataError: `images` cannot be drawn.
    """
    classes, square = list(dict.fromkeys(labels.tolist())), square_columns(images)
    beside, each = min(len(classes), max(WIDEST, square)), max(1, square // len(classes))
    bands = []
    for begin in range(0, len(classes), beside):
        own = [images[labels == label] for label in classes[begin : begin + beside]]
        rows = math.ceil(max(map(len, own)) / each)
        filled = np.full((rows, beside, each, *images.shape[1:]), WHITE, np.uint8)
        for place, of_class in enumerate(own):
            row, column = np.divmod(np.arange(len(of_class)), each)
            filled[row, place, column] = of_class
        bands.append(grid(filled.reshape(-1, *images.shape[1:]), beside * each))
    return np.concatenate(bands)


def animation(samples: Samples) -> list[Pixels]:
    """Return the denoising as pictures, one per kept moment."""
    return [picture(samples, frame) for frame in samples.frames]


def write(
    samples: Samples,
    folder: Path,
    mark: Mark,
    *,
    first: int = 0,
    singles: bool = False,
    npz: bool = False,
    gif: bool = False,
    strip: bool = False,
) -> list[Path]:
    """Write samples into `folder` and return the files: `grid.png`, and what else is asked for.

    Args:
        samples: with frames where `gif` or `strip` is asked for.
        folder: made if it is not there.
        mark: of what made them, which each file carries.
        first: the number of the first sample.
        singles: a PNG for each image, `000000.png` and on.
        npz: `samples.npz`.
        gif: `denoising.gif`.
        strip: `film-strip.png`, images only.

    Raises:
        DataError: the samples have more channels or dimensions than a picture; ask for `npz` alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if npz:
        save_npz(folder / "samples.npz", samples.values, samples.labels, samples.words, mark)
        written.append(folder / "samples.npz")
    if is_drawable(samples.values.shape[1:]):
        save_png(folder / "grid.png", picture(samples), mark)
        written.append(folder / "grid.png")
    elif singles or gif or strip or not npz:
        what = "channels" if samples.values.ndim == 4 else "dimensions"
        raise DataError(f"{samples.values.shape[-1]} {what} cannot be shown as a picture: ask for --npz alone")
    if singles:
        save_images(folder, samples.values, first, mark)
        written.append(folder / f"{first:06d}.png")
    if gif:
        save_gif(folder / "denoising.gif", animation(samples), mark=mark)
        written.append(folder / "denoising.gif")
    if strip:
        save_png(folder / "film-strip.png", film_strip(samples.frames), mark)
        written.append(folder / "film-strip.png")
    return written


def is_drawable(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape can be shown as a picture: grey or RGB images, points on a line and in
    the plane.
    """
    return shape[-1] in (1, 3) if len(shape) == 3 else shape in ((1,), (2,))
