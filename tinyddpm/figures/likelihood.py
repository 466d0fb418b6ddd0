"""The variational bound drawn with matplotlib (the `figures` extra): what each step costs, and what it brings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from tinyddpm.errors import ConfigError
from tinyddpm.figures.files import replacing


def draw_likelihood(steps: Mapping[str, Sequence[float]], path: str | os.PathLike[str]) -> None:
    """Write a PNG file with two charts: bits per dimension of each step on log axes, and distortion over rate.

    These are IDDPM's figure 2 and DDPM's figure 5.

    Args:
        steps: "t", "bits", "rate" and "distortion", each of the same length.
        path: the file to write.

    Raises:
        ConfigError: matplotlib is missing.
        DataError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing the bound needs matplotlib: pip install 'tinyddpm[figures]'") from error
    figure = Figure(figsize=(10, 4), layout="constrained")
    cost, coding = figure.subplots(1, 2)
    # The papers' t counts from 1: the first has a place on a log axis. A negative L_0, as points may have, has none.
    cost.plot([t + 1 for t in steps["t"]], steps["bits"], marker=".", markersize=3)
    cost.set(xscale="log", yscale="log", title="bits/dim of each step", xlabel="t, from 1")
    coding.plot(steps["rate"], steps["distortion"], marker=".", markersize=3)
    coding.set(title="progressive coding", xlabel="rate, bits/dim", ylabel="distortion, RMSE of $x_0$", ylim=(0, None))
    for chart in (cost, coding):
        chart.grid(alpha=0.3)
    with replacing(path) as file:
        FigureCanvasAgg(figure).print_png(file)
