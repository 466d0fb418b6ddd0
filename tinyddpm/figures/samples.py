"""The pictures that samples make, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinyddpm.errors import DataError
from tinyddpm.figures.images import Pixels, captioned, film_strip, grid, save_gif, save_images, save_npz, save_png
from tinyddpm.figures.marks import Mark
from tinyddpm.figures.points import point_picture
from tinyddpm.model.sampling import Samples

HostArray = np.ndarray[Any, Any]


def picture(samples: Samples, values: HostArray | None = None) -> Pixels:
    """Return all samples in one picture: a grid of images, with a column for each class, or a row for each
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
    columns = None if samples.labels is None else int(samples.labels.max()) + 1
    return grid(values, columns=columns if columns and 4 <= columns <= 20 else None)


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
