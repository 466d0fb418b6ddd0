"""Figures of noise schedules: their curves, and an image noised by each of them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import load_backend
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedule_report import curves
from tinyddpm.diffusion.schedules import Betas, check_betas
from tinyddpm.errors import ConfigError
from tinyddpm.figures.images import Pixels
from tinyddpm.figures.marks import Mark
from tinyddpm.figures.style import drawing, show_tiles, tiles_size
from tinyddpm.figures.tiles import in_columns

TITLES = {
    "sqrt(alpha_bar)": "signal, $\\sqrt{\\bar\\alpha_t}$",
    "sqrt(1 - alpha_bar)": "noise, $\\sqrt{1 - \\bar\\alpha_t}$",
    "log SNR": "$\\log\\,\\mathrm{SNR}_t$",
    "beta": "$\\beta_t$",
}

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Times t/T at which an image is shown."""

Floats = NDArray[np.floating]


def draw_schedules(
    schedules: Mapping[str, Betas],
    path: str | os.PathLike[str],
    tiles: Pixels | None = None,
    mark: Mark | None = None,
) -> None:
    """Write a figure of four charts, each comparing the schedules over t/T: both roots of alpha_bar, log SNR, beta.

    Args:
        schedules: the betas of each schedule by name; their lengths may differ.
        path: the file to write, PNG or SVG.
        tiles: pictures to show below, a row for each schedule, as returned by `schedule_tiles`.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, the file name ends in neither .png nor .svg, or there is no schedule.
        DataError: the file cannot be written.
    """
    if not schedules:
        raise ConfigError("no schedule to draw: name at least one, such as linear")
    high = 0.4 + tiles_size(tiles)[1] if tiles is not None else 0.0
    with drawing(path, (10, 6.5 + high), mark) as figure:
        above, *below = figure.subfigures(2, 1, height_ratios=(6.5, high)) if high else [figure]
        charts = dict(zip(TITLES, above.subplots(2, 2).flat, strict=True))
        for name, betas in schedules.items():
            check_betas(betas, name, terminal=True)
            T = len(betas)
            for kind, y in curves(betas).items():
                charts[kind].plot([(t + 1) / T for t in range(T)], y, label=f"{name}, T = {T}")
        for kind, chart in charts.items():
            chart.set(title=TITLES[kind], xlabel="t / T", xlim=(0, 1))
        charts["beta"].set(yscale="log")
        charts["sqrt(alpha_bar)"].legend()
        if tiles is not None:
            shares = [f"{share:g}" for share in SHARES]
            show_tiles(below[0].subplots(), tiles, ["$x_0$", f"t/T = {shares[0]}", *shares[1:]], [*schedules])


def schedule_tiles(schedules: Mapping[str, Betas], image: Floats, eps: Floats) -> Pixels:
    """Return one image under each schedule, uint8 (schedules, 1 + len(SHARES), H, W, C): x_0, then x_t at each t/T.

    Args:
        schedules: as in `draw_schedules`.
        image: x_0, (1, H, W, C) in [−1, 1].
        eps: standard normal noise of the image's shape, the same for all schedules and times.
    """
    rows = []
    for betas in schedules.values():
        process = GaussianProcess(load_backend("numpy"), betas, np.float64)
        times = [max(0, round(share * process.T) - 1) for share in SHARES]
        rows.append(in_columns([image, *(process.q_sample(image, t, eps) for t in times)]))
    return np.concatenate(rows)
