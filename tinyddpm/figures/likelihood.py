"""The variational bound drawn: what each step costs, and what it brings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from tinyddpm.figures.style import drawing


def draw_likelihood(steps: Mapping[str, Sequence[float]], path: str | os.PathLike[str]) -> None:
    """Write a figure of two charts: bits per dimension of each step on log axes, and distortion over rate.

    These are IDDPM's figure 2 and DDPM's figure 5.

    Args:
        steps: "t", "bits", "rate" and "distortion", each of the same length.
        path: the file to write, PNG or SVG.

    Raises:
        ConfigError: matplotlib is missing, or the file is to be of another format.
        DataError: the file cannot be written.
    """
    with drawing(path, (10, 4)) as figure:
        cost, coding = figure.subplots(1, 2)
        # The papers' t counts from 1: the first has a place on a log axis. A negative L_0, as of points, has none.
        cost.plot([t + 1 for t in steps["t"]], steps["bits"], marker=".", markersize=3)
        cost.set(xscale="log", yscale="log", title="What each step costs", xlabel="t, from 1", ylabel="$L_t$, bits/dim")
        coding.plot(steps["rate"], steps["distortion"], marker=".", markersize=3)
        coding.set(
            title="Progressive coding", xlabel="rate, bits/dim", ylabel="distortion, RMSE of $x_0$", ylim=(0, None)
        )
