"""Noise schedules drawn with matplotlib (the `figures` extra), by its objects alone: no global state, no window."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tinyddpm.diffusion.schedule_report import curves
from tinyddpm.diffusion.schedules import Betas, check_betas
from tinyddpm.errors import ConfigError
from tinyddpm.figures.files import replacing

TITLES = {
    "sqrt(alpha_bar)": "image that is left, $\\sqrt{\\bar\\alpha_t}$",
    "sqrt(1 - alpha_bar)": "noise, $\\sqrt{1 - \\bar\\alpha_t}$",
    "log SNR": "$\\log\\,\\mathrm{SNR}_t$",
    "beta": "$\\beta_t$",
}


def draw_schedules(schedules: Mapping[str, Betas], path: str | os.PathLike[str]) -> None:
    """Write a PNG file with four charts, each comparing the schedules over t/T: both roots of alpha_bar, log SNR, beta.

    Args:
        schedules: the betas of each schedule by name; lengths may differ.
        path: the file to write.

    Raises:
        ConfigError: matplotlib is missing, or there is nothing to draw.
        DataError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing schedules needs matplotlib: pip install 'tinyddpm[figures]'") from error
    if not schedules:
        raise ConfigError("no schedule to draw: name at least one, such as linear")
    figure = Figure(figsize=(10, 7), layout="constrained")
    charts = dict(zip(TITLES, figure.subplots(2, 2).flat, strict=True))
    for name, betas in schedules.items():
        check_betas(betas, name, terminal=True)
        T = len(betas)
        for kind, y in curves(betas).items():
            charts[kind].plot([(t + 1) / T for t in range(T)], y, label=f"{name}, T = {T}")
    for kind, chart in charts.items():
        chart.set(title=TITLES[kind], xlabel="t / T", xlim=(0, 1))
        chart.grid(alpha=0.3)
    charts["beta"].set(yscale="log")
    charts["sqrt(alpha_bar)"].legend()
    with replacing(path) as file:
        FigureCanvasAgg(figure).print_png(file)
