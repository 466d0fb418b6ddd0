"""The callback `plot` keeps the curves of a run in its folder."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from helpers.runs import POINTS
from tinyddpm.backend import load_backend
from tinyddpm.errors import ConfigError
from tinyddpm.figures.charts import Chart
from tinyddpm.figures.marks import read_mark
from tinyddpm.figures.panels import draw_charts
from tinyddpm.progress import Progress
from tinyddpm.report.callback import Plot
from tinyddpm.training.run import resume, start

pytest.importorskip("matplotlib")

NUMPY = load_backend("numpy")

SETTINGS = POINTS.updated(
    {
        "training": {"steps": 8, "warmup": 1, "log_every": 1, "sample_every": 1000},
        "callbacks": {"plot": {"file": "curves.svg"}},
    }
)


@pytest.mark.slow
def test_curves_are_of_all_that_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each validation; of an earlier part of the run too, and of no step that will be done again."""
    folder, said, drawn = tmp_path / "run", StringIO(), []

    def kept(charts: list[Chart], *arguments: Any) -> None:
        drawn.append({chart.title: chart.lines[-1].points[0] for chart in charts})
        draw_charts(charts, *arguments)

    monkeypatch.setattr("tinyddpm.report.callback.draw_charts", kept)
    start(SETTINGS, NUMPY, folder, Progress(said))
    assert read_mark(folder / "curves.svg")["checkpoint"] == {"step": 8}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "never": 1.0}\n')
    resume(folder, Progress(said), steps=12)
    assert read_mark(folder / "curves.svg")["checkpoint"] == {"step": 12}
    titles = ["loss", "held-out loss", "gradient norm", "learning rate", "samples/s"]
    assert [list(charts) for charts in drawn] == [titles] * 3
    assert [charts["loss"] for charts in drawn] == [[*range(1, last + 1)] for last in (4, 8, 12)]
    assert drawn[-1]["held-out loss"] == [4, 8, 12]
    assert "note: callback" not in said.getvalue()


def test_what_cannot_be_drawn_is_refused_before_the_run() -> None:
    for file, line in (("curves.pdf", "figures are PNG or SVG"), ("../curves.png", "give a name in the run's folder")):
        with pytest.raises(ConfigError, match=line):
            Plot(file=file)
