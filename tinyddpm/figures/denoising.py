"""Figures of a run's predictions: along the sampling chain, and in one step from noised data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyddpm.backend import Array, Purpose
from tinyddpm.conditions import Known
from tinyddpm.diffusion.process import noise_to_signal
from tinyddpm.figures.images import Pixels
from tinyddpm.figures.line_law import Floats
from tinyddpm.figures.marks import Mark
from tinyddpm.figures.style import COLOURS, INK, QUIET, draw_tiles, drawing, show_tiles, tiles_size
from tinyddpm.figures.tiles import in_columns
from tinyddpm.model.model import Model
from tinyddpm.model.tables import GuidanceConfig, SamplingConfig
from tinyddpm.samplers.spacings import moments

HostArray = np.ndarray[Any, Any]
PathLike = str | os.PathLike[str]


class Denoising(NamedTuple):
    """States along the chain: K times, x_t and the x_0 predicted from it, (K, n, ...), and the samples, (n, ...)."""

    t: Sequence[int]
    x_t: HostArray
    x_0: HostArray
    samples: HostArray


def denoising(
    model: Model,
    weights: Array,
    numbers: HostArray,
    asked: Known,
    *,
    seed: int,
    sampling: SamplingConfig,
    guidance: GuidanceConfig | None = None,
    columns: int = 10,
) -> Denoising:
    """Draw samples and keep x_t and the predicted x_0 at up to `columns` steps, evenly spread.

    Args:
        model: the model.
        weights: its flat parameters on the device.
        numbers: (n,), sample numbers as in `tinyddpm sample`.
        asked: the condition asked for, one row per sample.
        seed: seed of the noise.
        sampling: sampler, options and steps.
        guidance: the guidance; that of the configuration by default.
        columns: number of steps to keep.
    """
    kept = set(moments(len(model.pairs(sampling)), columns))
    host, found = model.backend.to_numpy, []
    with model.backend.scope():
        x_t = host(model.backend.random(seed).normal(Purpose.SAMPLE_START, 0, numbers, model.sample_shape))
    for number, step in enumerate(model.sample(weights, numbers, asked, seed, sampling, guidance)):
        if number in kept:
            found.append((step.t, x_t, host(step.x_0)))
        x_t = host(step.x)
    times, noisy, predicted = zip(*found, strict=True)
    return Denoising(times, np.stack(noisy), np.stack(predicted), x_t)


def draw_denoising(found: Denoising, path: PathLike, mark: Mark | None = None) -> None:
    """Write the figure `denoising`: for each sample a row of x_t, and below it a row of the x_0 predicted from it.

    Args:
        found: as returned by `denoising`. All points share one picture.
        path: the file to write, PNG or SVG.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
        DataError: the samples cannot be shown as pictures, or the file cannot be written.
    """
    rows = np.stack([in_columns([*x, found.samples]) for x in (found.x_t, found.x_0)], axis=1)
    tiles: Pixels = rows.reshape(-1, *rows.shape[2:])
    names = ["$x_t$", "predicted $x_0$"] * (len(tiles) // 2)
    draw_tiles(tiles, [*(f"t = {t}" for t in found.t), "sample"], names, path, mark)


def linear_error(samples: HostArray, alpha_bar: Floats) -> Floats:
    """Return the mean squared error of the best linear prediction of x_0 from x_t, per element, (K,).

    It is the error of the exact denoiser of a Gaussian with the samples' mean and covariance. With eigenvalues λ_i of
    the covariance, the variance of x_0 given x_t along each eigenvector is

        λ_i (1 − alpha_bar) / (alpha_bar λ_i + 1 − alpha_bar)

    Args:
        samples: x_0, (n, ...).
        alpha_bar: (K,).
    """
    flat = samples.reshape(len(samples), -1).astype(np.float64)
    eigenvalues = np.linalg.svd((flat - flat.mean(axis=0)) / len(flat) ** 0.5, compute_uv=False) ** 2
    noise = 1 - alpha_bar[:, None]
    left: Floats = (eigenvalues * noise / (alpha_bar[:, None] * eigenvalues + noise)).sum(axis=1) / flat.shape[1]
    return left


class SingleStep(NamedTuple):
    """The error of x_0 predicted in one step, at K times.

    Attributes:
        alpha_bar: (K,), at these times.
        mse: (seeds, n, K), the mean squared error over each sample's elements.
        labels: (n,), the class of each sample; None without classes.
        classes: names of the classes.
        linear: (K,), as returned by `linear_error`; None if not computed.
        deviation: standard deviation of the data about their mean.
        unit: factor from the model's units to those of the chart, such as 127.5 for pixel values to 255.
    """

    alpha_bar: Floats
    mse: Floats
    labels: HostArray | None
    classes: Sequence[str]
    linear: Floats | None
    deviation: float
    unit: float

    @property
    def overall(self) -> Floats:
        """Root mean squared error over all seeds and samples, (K,), in the chart's units."""
        overall: Floats = self.unit * self.mse.mean(axis=(0, 1)) ** 0.5
        return overall


def draw_single_step(
    found: SingleStep,
    path: PathLike,
    tiles: Pixels | None = None,
    words: Sequence[str] = (),
    mark: Mark | None = None,
) -> None:
    """Write the figure `single-step`: the error against the noise level, by seed and by class, on log axes.

    Args:
        found: the errors.
        path: the file to write, PNG or SVG.
        tiles: pictures (2, columns, H, W, C) to show below: x_t, and the x_0 predicted from it.
        words: labels of their columns.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
        DataError: the file cannot be written.
    """
    high = 0.3 + tiles_size(tiles)[1] if tiles is not None else 0.0
    with drawing(path, (10, 4.4 + high), mark) as figure:
        above, *below = figure.subfigures(2, 1, height_ratios=(4.4, high)) if high else [figure]
        by_seed, by_class = above.subplots(1, 2, sharey=True)
        level = noise_to_signal(found.alpha_bar)
        for number, seed in enumerate(found.mse):
            error = found.unit * seed.mean(axis=0) ** 0.5
            by_seed.plot(level, error, color=COLOURS[5], linewidth=1, label="each seed" if number == 0 else None)
        by_seed.plot(level, found.overall, color=COLOURS[0], label="all")
        if found.linear is not None:
            by_seed.plot(level, found.unit * found.linear**0.5, "--", color=COLOURS[1], label="best linear prediction")
        by_seed.axhline(found.unit * found.deviation, color=QUIET, linestyle=":", label="the mean of the data")
        by_seed.set(title="By seed", ylabel="error of $x_0$, RMSE")
        _draw_classes(by_class, level, found)
        for chart in (by_seed, by_class):
            chart.set(xscale="log", yscale="log", xlabel="noise to signal, $\\sqrt{(1-\\bar\\alpha_t)/\\bar\\alpha_t}$")
            chart.legend(ncols=2 if chart is by_class else 1)
        if tiles is not None:
            show_tiles(below[0].subplots(), tiles, words, ["$x_t$", "predicted $x_0$"])


def _draw_classes(chart: Any, level: Floats, found: SingleStep) -> None:
    """Draw a curve for each class; without classes, the median and the 10 % to 90 % range of the samples."""
    errors = found.unit * found.mse.mean(axis=0) ** 0.5  # (n, K)
    if found.labels is None:
        low, middle, high = np.quantile(errors, [0.1, 0.5, 0.9], axis=0)
        chart.fill_between(level, low, high, color=COLOURS[5], alpha=0.5, label="80 % of the samples")
        chart.plot(level, middle, color=INK, label="median sample")
        chart.set(title="By sample")
        return
    from matplotlib import colormaps

    shown = [number for number in range(len(found.classes)) if (found.labels == number).any()]
    for place, number in enumerate(shown):
        error = found.unit * found.mse[:, found.labels == number].mean(axis=(0, 1)) ** 0.5
        colour = COLOURS[place] if len(shown) <= len(COLOURS) else colormaps["viridis"](place / (1.1 * len(shown)))
        chart.plot(level, error, color=colour, linewidth=1.2, label=found.classes[number])
    chart.set(title="By class")
