"""Samples from a model in batches, and the pictures they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.data.batching import from_model
from tinyddpm.errors import ConfigError, DataError, unknown
from tinyddpm.figures.images import Pixels, film_strip, grid, moments, save_gif, save_images, save_npz, save_png
from tinyddpm.figures.points import scatter
from tinyddpm.samplers import Step
from tinyddpm.training.config import SamplingConfig
from tinyddpm.training.model import Model

HostArray = np.ndarray[Any, Any]

FRAMES = 40
"""Moments of the denoising that are kept for an animation."""


@dataclass(frozen=True)
class Samples:
    """Samples and how they came about.

    Attributes:
        values: uint8 images (n, H, W, C) or float32 points (n, D).
        labels: (n,) the class each was drawn for, None without classes.
        frames: x_t at up to `FRAMES` moments from noise to sample, each like `values`; empty if not asked for.
    """

    values: HostArray
    labels: HostArray | None
    frames: list[HostArray]


def default_labels(samples: HostArray, classes: int) -> HostArray:
    """Return a class for each sample number, going round through all of them."""
    return np.asarray(samples % max(1, classes))


def draw(
    model: Model,
    weights: Array,
    samples: HostArray,
    labels: HostArray,
    *,
    seed: int,
    sampling: SamplingConfig,
    batch_size: int,
    frames: bool = False,
    watch: Callable[[Step], None] = lambda step: None,
) -> Samples:
    """Draw the samples numbered `samples`, in batches.

    Args:
        model: the model.
        weights: its flat parameters on the device.
        samples: (n,) their numbers: the same seed, number and label give the same sample in any batch.
        labels: (n,) their classes, ignored by an unconditional model.
        seed: of the noise.
        sampling: sampler, options and steps.
        batch_size: how many at a time.
        frames: keep moments of the denoising.
        watch: called with every step, for progress.
    """
    batches, films = [], []
    for start in range(0, len(samples), batch_size):
        part = slice(start, start + batch_size)
        kept = set(moments(sampling.steps or model.process.T, FRAMES)) if frames else set()
        film = []
        for number, step in enumerate(model.sample(weights, samples[part], labels[part], seed, sampling)):
            watch(step)
            if number in kept:
                film.append(_to_host(model, step.x))
        batches.append(_to_host(model, step.x))
        films.append(film)
    return Samples(
        values=np.concatenate(batches),
        labels=labels if model.classes else None,
        frames=[np.concatenate(parts) for parts in zip(*films, strict=True)],
    )


def picture(samples: Samples, values: HostArray | None = None) -> Pixels:
    """Return all samples in one picture: a grid of images, with a column for each class, or a scatter of points.

    Args:
        samples: what to show.
        values: show these in their place, such as one of the frames.
    """
    values = samples.values if values is None else values
    if values.ndim == 2:
        return scatter(values)
    columns = None if samples.labels is None else int(samples.labels.max()) + 1
    return grid(values, columns=columns if columns and 4 <= columns <= 20 else None)


def animation(samples: Samples) -> list[Pixels]:
    """Return the denoising as pictures, one per kept moment."""
    return [picture(samples, frame) for frame in samples.frames]


def _to_host(model: Model, x: Array) -> HostArray:
    host = model.backend.to_numpy(x)
    return from_model(host) if model.is_image else host


def choose_labels(samples: HostArray, classes: tuple[str, ...], chosen: str | None) -> HostArray:
    """Return the class of each sample number: those `chosen`, by name or number and separated by commas, in turn.

    Raises:
        ConfigError: a class is unknown, or the model has none.
    """
    if chosen is None:
        return default_labels(samples, len(classes))
    if not classes:
        raise ConfigError("the model was trained without classes: leave --labels out")
    numbers = {name: number for number, name in enumerate(classes)}
    numbers |= {str(number): number for number in range(len(classes)) if str(number) not in numbers}
    names = [name.strip() for name in chosen.split(",")]
    for name in names:
        if name not in numbers:
            raise ConfigError(unknown("class", name, numbers))
    turns: HostArray = np.asarray([numbers[name] for name in names])
    return np.take(turns, samples % len(names))


def write(
    samples: Samples,
    folder: Path,
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
        first: the number of the first sample.
        singles: a PNG for each image, `000000.png` and on.
        npz: `samples.npz`.
        gif: `denoising.gif`.
        strip: `film-strip.png`, images only.

    Raises:
        DataError: the samples have a number of channels that PNG cannot show; ask for `npz` alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if npz:
        save_npz(folder / "samples.npz", samples.values, samples.labels)
        written.append(folder / "samples.npz")
    if is_drawable(samples.values.shape[1:]):
        save_png(folder / "grid.png", picture(samples))
        written.append(folder / "grid.png")
    elif singles or gif or strip or not npz:
        raise DataError(f"{samples.values.shape[-1]} channels cannot be shown as a picture: ask for --npz alone")
    if singles:
        save_images(folder, samples.values, first)
        written.append(folder / f"{first:06d}.png")
    if gif:
        save_gif(folder / "denoising.gif", animation(samples))
        written.append(folder / "denoising.gif")
    if strip:
        save_png(folder / "film-strip.png", film_strip(samples.frames))
        written.append(folder / "film-strip.png")
    return written


def is_drawable(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape can be shown as a picture: grey or RGB images, and points in the plane."""
    return shape[-1] in (1, 3) if len(shape) == 3 else shape == (2,)
