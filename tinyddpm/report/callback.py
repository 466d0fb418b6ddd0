"""The callback `plot`: the charts of `tinyddpm plot`, written into the run's folder during training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tinyddpm import __version__
from tinyddpm.errors import ConfigError
from tinyddpm.figures.panels import draw_charts
from tinyddpm.figures.style import check_figure
from tinyddpm.report.metrics import METRICS, charts, read_metrics, run_names


class Plot:
    """Draws the curves of all metrics after each validation, over all parts of a resumed run.

    Args:
        file: name of the picture in the run's folder, .png or .svg.

    Raises:
        ConfigError: the name has another suffix or contains a folder, or matplotlib is missing.
    """

    requires: ClassVar[Mapping[str, str]] = {"matplotlib": "tinyddpm[figures]"}

    def __init__(self, *, file: str = "curves.png") -> None:
        check_figure(file)
        if Path(file).name != file:
            raise ConfigError(f"file is {file}: give a name in the run's folder, such as curves.svg")
        self.file, self.folder = file, Path()

    def started(self, step: int, steps: int, folder: Path) -> None:
        """Store the run's folder."""
        self.folder = folder

    def validated(self, step: int, loss: float) -> None:
        """Draw the curves up to this step."""
        curves = {name: read_metrics(folder / METRICS).curves for name, folder in run_names([self.folder]).items()}
        mark = {"made_by": "tinyddpm train", "version": __version__, "checkpoint": {"step": step}}
        draw_charts(charts(curves), self.folder / self.file, mark)
