"""Figures of the variational bound: its terms over time, rate and distortion, and errors of the prediction."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from tinyddpm.figures.images import Pixels
from tinyddpm.figures.marks import Mark
from tinyddpm.figures.style import COLOURS, QUIET, drawing, show_tiles, tiles_size

PathLike = str | os.PathLike[str]


def draw_likelihood(steps: Mapping[str, Sequence[float]], path: PathLike, mark: Mark | None = None) -> None:
    """Write a figure of two charts: bits per dimension of each step on log axes, and distortion over rate.

    These are IDDPM's figure 2 and DDPM's figure 5.

    Args:
        steps: "t", "bits", "rate" and "distortion", all of the same length.
        path: the file to write, PNG or SVG.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
        DataError: the file cannot be written.
    """
    with drawing(path, (10, 4), mark) as figure:
        cost, coding = figure.subplots(1, 2)
        # The papers' t starts at 1, which a log axis can show. It cannot show a negative L_0, which points may have.
        cost.plot([t + 1 for t in steps["t"]], steps["bits"], marker=".", markersize=3)
        cost.set(xscale="log", yscale="log", title="What each step costs", xlabel="t, from 1", ylabel="$L_t$, bits/dim")
        coding.plot(steps["rate"], steps["distortion"], marker=".", markersize=3)
        coding.set(
            title="Progressive coding", xlabel="rate, bits/dim", ylabel="distortion, RMSE of $x_0$", ylim=(0, None)
        )


def draw_loss_by_time(steps: Mapping[str, Sequence[float]], path: PathLike, mark: Mark | None = None) -> None:
    """Write the figure `loss-by-time`: errors of eps and x_0, and the bound's terms, over t on log axes.

    Args:
        steps: "t", "mse_eps", "mse_x_0" and "bits", all of the same length.
        path: the file to write, PNG or SVG.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
        DataError: the file cannot be written.
    """
    titles = {
        "mse_eps": "$L_{simple}$: squared error of $\\epsilon$",
        "mse_x_0": "squared error of $x_0$",
        "bits": "$L_t$, bits/dim",
    }
    with drawing(path, (10, 3.4), mark) as figure:
        for (name, title), chart, colour in zip(titles.items(), figure.subplots(1, 3), COLOURS, strict=False):
            chart.plot(steps["t"], steps[name], marker=".", markersize=3, color=colour)
            chart.set(title=title, xlabel="t", yscale="log")


BANDS = 10
"""Number of bars for the terms L_{T−1} … L_1, each the sum over neighbouring times."""


def bands(steps: Mapping[str, Sequence[float]], T: int) -> dict[str, float]:
    """Return the bound's terms L_{T−1} … L_1 summed over groups of neighbouring times, from noise to data.

    Args:
        steps: "t", "weight" and "bits", all of the same length, t increasing from 0.
        T: number of steps of the chain.

    Returns:
        the sums by the names of the groups, such as "999 … 900".
    """
    t, terms = np.asarray(steps["t"]), np.asarray(steps["weight"]) * np.asarray(steps["bits"])
    ends = np.unique(np.linspace(1, T, BANDS + 1).round().astype(int))
    sums = {f"{high - 1} … {low}": float(terms[(t >= low) & (t < high)].sum()) for low, high in pairwise(ends.tolist())}
    return dict(reversed(sums.items()))


def draw_bound(
    prior: float,
    matching: Mapping[str, float],
    reconstruction: float,
    path: PathLike,
    tiles: Pixels | None = None,
    words: Sequence[str] = (),
    mark: Mark | None = None,
) -> None:
    """Write the figure `vae`: the bound's terms as stacked bars, from the prior to the data.

    Args:
        prior: L_T, bits/dim.
        matching: L_{T−1} … L_1 in groups, as returned by `bands`.
        reconstruction: L_0.
        path: the file to write, PNG or SVG.
        tiles: pictures (2, columns, H, W, C) to show above: a sample through the encoder, and through the decoder.
        words: labels of their columns.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
        DataError: the file cannot be written.
    """
    parts = {"$L_T$": prior, **matching, "$L_0$": reconstruction}
    colours = [QUIET, *[COLOURS[0]] * len(matching), COLOURS[1]]
    heights = np.asarray([*parts.values()])
    high = 0.3 + tiles_size(tiles)[1] if tiles is not None else 0.0
    with drawing(path, (10, 4.2 + high), mark) as figure:
        *above, below = figure.subfigures(2, 1, height_ratios=(high, 4.2)) if high else [figure]
        if tiles is not None:
            show_tiles(above[0].subplots(), tiles, words, ["encoder $q$", "decoder $p$"])
        chart = below.subplots()
        bottoms = np.cumsum(heights) - heights
        bars = chart.bar([*parts], heights, bottom=bottoms, color=colours, width=0.75)
        for text, bar, height, bottom in zip(map("{:.3g}".format, heights), bars, heights, bottoms, strict=True):
            chart.annotate(text, (bar.get_x() + bar.get_width() / 2, bottom + max(height, 0)), ha="center", va="bottom")
        names = (
            r"prior: $\mathrm{KL}(q(x_T|x_0)\,\|\,p(x_T))$",
            r"matching: $\mathrm{KL}(q(x_{t-1}|x_t,x_0)\,\|\,p(x_{t-1}|x_t))$",
            r"reconstruction: $-\log p(x_0|x_1)$",
        )
        chart.legend([bars[0], bars[1], bars[-1]], names, loc="upper left")
        chart.margins(y=0.18)
        chart.set(
            title=f"The bound: {heights.sum():.3g} bits/dim", ylabel="bits/dim, summed up", xlabel="t of the terms"
        )
        chart.tick_params(axis="x", labelrotation=25)
