"""The logged metrics of runs as curves and charts. `metrics.jsonl` can be read while it is written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias

from tinyddpm.errors import ConfigError, DataError, unknown
from tinyddpm.figures.charts import Chart, Line
from tinyddpm.figures.lines import Curve
from tinyddpm.files import check_file

METRICS = "metrics.jsonl"
"""Name of the metrics file in a run folder."""

LARGEST = 1e300
"""Largest magnitude of a logged value, and the inverse of the smallest that is not 0. No run logs values beyond these,
and ratios of them would overflow in a chart.
"""

MOST_RUNS, LONGEST_NAME = 6, 60

PARTS = 20
"""A smoothed curve is a moving average over 1/20 of its points."""


@dataclass(frozen=True)
class Metric:
    """Display of a metric: its title, whether it is smoothed, and whether its y axis is logarithmic."""

    title: str
    noisy: bool = False
    log: bool = False


KNOWN = {
    "loss": Metric("loss", noisy=True, log=True),
    "validation_loss": Metric("held-out loss", log=True),
    "gradient_norm": Metric("gradient norm", noisy=True, log=True),
    "learning_rate": Metric("learning rate"),
    "samples_per_second": Metric("samples/s"),
}
"""The metrics that every run logs, in the order of their charts."""

Curves: TypeAlias = Mapping[str, Curve]
"""The curve of each metric over the steps, by the metric's name."""


@dataclass(frozen=True)
class Logged:
    """The curves of a run, and the number of lines of its file that could not be read."""

    curves: Curves
    unread: int = 0


def read_metrics(path: Path) -> Logged:
    """Read a metrics file.

    An incomplete last line is skipped: it is still being written. Other lines are skipped and counted if they are not a
    step with numbers, or if the step is lower than the one before.

    Raises:
        DataError: the file does not exist or cannot be read.
    """
    try:
        check_file(path)
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path.parent} is no run folder: it has no {path.name}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error
    curves: dict[str, tuple[list[float], list[float]]] = {}
    unread, step = 0, 0.0
    for line in text.splitlines(keepends=True):
        values = _values(line)
        if values is None or values["step"] < step:
            unread += line.endswith("\n")
            continue
        step = values.pop("step")
        for name, value in values.items():
            xs, ys = curves.setdefault(name, ([], []))
            xs.append(step)
            ys.append(value)
    return Logged(curves, unread)


def run_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Return run folders by name: the folder's name, or its path if two folders have the same name. Duplicates merge.

    Names that differ only in what is cut get numbers.

    Raises:
        ConfigError: there are more than `MOST_RUNS` runs, which a chart could not distinguish.
    """
    names = [os.path.basename(os.path.realpath(folder)) for folder in folders]
    runs: dict[str, Path] = {}
    for name, folder in zip(names, folders, strict=True):
        short = shown(name if names.count(name) == 1 else str(folder))
        numbered = (f"{short} ({number})" for number in range(2, len(folders) + 1))
        runs[next(free for free in (short, *numbered) if runs.get(free, folder) == folder)] = folder
    if len(runs) > MOST_RUNS:
        raise ConfigError(f"{len(runs)} runs in one chart: give 1 to {MOST_RUNS}")
    return runs


def shown(name: str) -> str:
    """Return a name without control characters, and without the middle of what is beyond `LONGEST_NAME` characters."""
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    half = LONGEST_NAME // 2
    return plain if len(plain) <= LONGEST_NAME else f"{plain[: half - 1]}…{plain[-half:]}"


def _values(line: str) -> dict[str, float] | None:
    """Return the numbers in a line of metrics, among them a step of at least 0; None if the line is anything else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(type(value) in (int, float) for value in found.values()):
        return None
    if not all(abs(value) <= LARGEST for value in found.values()) or found.get("step", -1) < 0:
        return None
    return {shown(name): float(value) if abs(value) > 1 / LARGEST else 0.0 for name, value in found.items()}


def unread(runs: Mapping[str, Logged]) -> list[str]:
    """Return one line of text for each run with unreadable lines of metrics."""
    return [
        f"{logged.unread} unreadable line{'s' if logged.unread > 1 else ''} left out of the metrics of {name}"
        for name, logged in runs.items()
        if logged.unread
    ]


def charts(runs: Mapping[str, Curves], chosen: Sequence[str] = ()) -> list[Chart]:
    """Return a chart for each metric, with the curves of all runs that have it.

    Noisy metrics are smoothed. With a single run, the logged values are drawn faintly behind the smoothed curve.

    Args:
        runs: the curves of each run, by the run's name.
        chosen: names of metrics; all metrics if empty.

    Raises:
        ConfigError: a metric is unknown.
    """
    there = {name for curves in runs.values() for name in curves}
    for name in chosen:
        if name not in there | set(KNOWN):
            raise ConfigError(unknown("metric", name, there | set(KNOWN)))
    names = chosen or [*KNOWN, *sorted(there - set(KNOWN))]
    return [_chart(name, runs) for name in names if name in there]


def _chart(name: str, runs: Mapping[str, Curves]) -> Chart:
    metric = KNOWN.get(name, Metric(name))
    lines = []
    for number, (run, curves) in enumerate(runs.items()):
        if name in curves:
            points = curves[name]
            lines.append(Line(run, smoothed(points) if metric.noisy else points, number))
            if metric.noisy and len(runs) == 1:
                lines.append(Line(f"{run}, as logged", points, number, faint=True))
    return Chart(metric.title, tuple(lines), log_y=metric.log)


def smoothed(curve: Curve) -> Curve:
    """Return the moving average of a curve over 1/`PARTS` of its points; at the ends the window is cut."""
    xs, ys = curve
    n, reach = len(ys), len(ys) // (2 * PARTS)
    sums = [0.0, *accumulate(ys)]
    ends = ((max(0, k - reach), min(n, k + reach + 1)) for k in range(n))
    return xs, [(sums[end] - sums[start]) / (end - start) for start, end in ends] if reach else ys


def last(curve: Curve) -> tuple[int, float]:
    """Return the last step of a curve and the value there."""
    return int(curve[0][-1]), curve[1][-1]


def lowest(curve: Curve) -> tuple[int, float]:
    """Return the first step at which a curve has its lowest value, and that value."""
    value = min(curve[1])
    return int(curve[0][curve[1].index(value)]), value
