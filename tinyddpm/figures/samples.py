"""Pictures of samples, and the files that `tinyddpm sample` writes."""

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
"""Most classes side by side, unless a square picture of the samples has more columns than this."""


def picture(samples: Samples, values: HostArray | None = None) -> Pixels:
    """Return all samples in one picture: a grid of images, with columns for each class or a row for each caption;
    a histogram of points in one dimension, or a scatter of points in two.

    Args:
        samples: the samples, with their classes or captions.
        values: values to show instead of the samples' own, such as one of the frames.
    """
    values = samples.values if values is None else values
    if values.ndim == 2:
        return point_picture(values)
    if samples.words is not None:
        return captioned(values, samples.words)
    return grid(values) if samples.labels is None else by_class(values, samples.labels)


def by_class(images: Pixels, labels: HostArray) -> Pixels:
    """Arrange `images` (n, H, W, C) in one picture, uint8 (H', W', C), in which each class has its own columns.

    A class has one column, or several if there are few classes, so that the picture is about square. Classes are in the
    order in which they first occur; those that do not fit side by side go below.

    Args:
        images: uint8, one or three channels.
        labels: (n,), the class of each image.

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
    """Return the denoising as pictures, one per frame."""
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
    """Write samples into `folder`, `grid.png` and the files asked for, and return the paths.

    Args:
        samples: the samples, with frames if `gif` or `strip` is asked for.
        folder: created if it does not exist.
        mark: provenance record, stored in each file.
        first: number of the first sample.
        singles: whether to write a PNG for each image, `000000.png` and so on.
        npz: whether to write `samples.npz`.
        gif: whether to write `denoising.gif`.
        strip: whether to write `film-strip.png`, for images only.

    Raises:
        DataError: see `check_written`.
    """
    check_written(samples.values.shape[1:], singles=singles, npz=npz, gif=gif, strip=strip)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if npz:
        save_npz(folder / "samples.npz", samples.values, samples.labels, samples.words, mark)
        written.append(folder / "samples.npz")
    if is_drawable(samples.values.shape[1:]):
        save_png(folder / "grid.png", picture(samples), mark)
        written.append(folder / "grid.png")
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


def check_written(
    shape: tuple[int, ...], *, singles: bool = False, npz: bool = False, gif: bool = False, strip: bool = False
) -> None:
    """Check, before samples of this shape are drawn, that `write` can write the files asked for.

    Raises:
        DataError: the samples have too many channels or dimensions for a picture: only `npz` is possible. Or they are
            points, of which there is no `singles` and no `strip`.
    """
    if not is_drawable(shape) and (singles or gif or strip or not npz):
        what = "channels" if len(shape) == 3 else "dimensions"
        raise DataError(f"{shape[-1]} {what} cannot be shown as a picture: ask for --npz alone")
    if len(shape) == 1 and (singles or strip):
        raise DataError("the model draws points, and --singles and --film-strip are for images: leave them out")


def is_drawable(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape, (H, W, C) or (D,), can be shown: images of 1 or 3 channels, points with D ≤ 2."""
    return shape[-1] in (1, 3) if len(shape) == 3 else shape in ((1,), (2,))
