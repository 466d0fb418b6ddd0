"""What runs have logged: read to the last whole line, smoothed by its definition, and charted by run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.errors import ConfigError, DataError
from tinyddpm.figures.terminal import text_chart
from tinyddpm.report.metrics import charts, last, lowest, read_metrics, run_names, smoothed


def written(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    return folder / "metrics.jsonl"


def test_lines_become_curves(tmp_path: Path) -> None:
    lines = [{"step": 10, "loss": 0.5, "rate": 3}, {"step": 10, "held": 0.75}, {"step": 20, "loss": 0.25}]
    logged = read_metrics(written(tmp_path, "".join(json.dumps(line) + "\n" for line in lines)))
    assert logged.curves == {"loss": ([10, 20], [0.5, 0.25]), "rate": ([10], [3]), "held": ([10], [0.75])}
    assert logged.unread == 0


@given(cut=st.integers(0, 200))
def test_a_file_that_is_being_written_is_read_to_its_last_whole_line(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wherever it is cut, nothing counts as unread, and what is there is a beginning of the whole."""
    text = "".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 9))
    logged = read_metrics(written(tmp_path_factory.mktemp("cut"), text[:cut]))
    whole = text[:cut].count("\n") + (text[:cut].endswith("}"))
    assert logged.unread == 0
    assert logged.curves == ({"loss": ([*range(1, whole + 1)], [1 / n for n in range(1, whole + 1)])} if whole else {})


@pytest.mark.parametrize(
    "line",
    [
        "{", "[1]", "5", '{"loss": 1}', '{"step": -1, "loss": 1}', '{"step": 1, "loss": "1"}', '{"step": true}',
        '{"step": 3, "loss": NaN}', '{"step": 3, "loss": Infinity}', '{"step": 3, "loss": 1e999}', "[" * 100_000,
        f'{{"step": 3, "loss": {"9" * 400}}}', f'{{"step": 3, "loss": {"9" * 5000}}}', "\udcff\udcfe",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_left_out_and_counted(line: str, tmp_path: Path) -> None:
    good = '{"step": 3, "loss": 0.5}\n'
    logged = read_metrics(written(tmp_path, f"{good}{line}\n{line}\n{good}"))
    assert logged.curves == {"loss": ([3, 3], [0.5, 0.5])}
    assert logged.unread == 2


def test_steps_that_fall_are_left_out(tmp_path: Path) -> None:
    text = "".join(f'{{"step": {step}, "loss": {step}}}\n' for step in (1, 5, 4, 6))
    logged = read_metrics(written(tmp_path, text))
    assert logged.curves["loss"][0] == [1, 5, 6]
    assert logged.unread == 1


def test_what_is_no_run_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no run folder: it has no metrics\.jsonl"):
        read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot read"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_smoothing_is_the_mean_of_a_twentieth_around_each_point() -> None:
    """Against its definition: 2 points to either side of 100; a line, which has no bend to lose, stays as it is."""
    y = np.random.default_rng(3).standard_normal(100)
    xs, found = smoothed((range(100), y.tolist()))
    assert list(xs) == list(range(100))
    assert found == pytest.approx([y[max(0, k - 2) : k + 3].mean() for k in range(100)])
    assert smoothed((range(100), list(range(100))))[1][2:-2] == pytest.approx(range(2, 98))
    assert smoothed(([0, 1, 2], [5.0, 1.0, 2.0]))[1] == [5, 1, 2], "of a few points each is its own mean"
    assert smoothed((range(50), [0.3] * 50))[1] == pytest.approx([0.3] * 50)


def test_charts_have_the_curves_of_all_runs_that_log_them() -> None:
    a = {"loss": ([1, 2], [2.0, 1.0]), "own": ([1], [4.0])}
    b = {"loss": ([1, 2, 3], [3.0, 2.0, 1.0]), "validation_loss": ([2], [0.5])}
    found = charts({"a": a, "b": b})
    assert [chart.title for chart in found] == ["loss", "held-out loss", "own"]
    assert [(line.name, line.number, line.faint) for line in found[0].lines] == [("a", 0, False), ("b", 1, False)]
    assert [(line.name, line.number) for line in found[1].lines] == [("b", 1)], "it looks as in the chart before"
    (alone,) = charts({"a": a}, ["loss"])
    assert [(line.points, line.faint) for line in alone.lines] == [(smoothed(a["loss"]), False), (a["loss"], True)]
    assert charts({"a": {}}, ["loss"]) == []
    with pytest.raises(ConfigError, match="unknown metric 'los': did you mean 'loss'"):
        charts({"a": a}, ["los"])


def test_last_and_lowest() -> None:
    curve = ([5, 10, 15, 20], [3.0, 1.0, 1.0, 2.0])
    assert last(curve) == (20, 2.0)
    assert lowest(curve) == (10, 1.0)


def test_names_of_metrics_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    """A lone surrogate, which no terminal can be sent, among them."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a\\ud800\\u001b[2J": 1}\n{"step": 2, "' + "x" * 100 + '": 2}\n')
    (first, second) = read_metrics(path).curves
    assert first == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2J"
    assert len(second) == 60


def test_values_that_no_chart_holds_are_left_out_or_0(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1e301}\n{"step": 2, "loss": 1e-320}\n{"step": 3, "loss": 1e299}\n')
    found = read_metrics(path)
    assert (found.curves["loss"], found.unread) == (([2, 3], [0.0, 1e299]), 1)
    text_chart(charts({"a": found.curves})[0])


def test_no_run_is_left_out_for_its_long_name() -> None:
    """Names that are cut stay apart: at their ends, and by numbers where they differ nowhere else."""
    long = "x" * 80
    for folders in (
        [f"{long}-1", f"{long}-2"],
        [f"{long}/a/run", f"{long}/b/run"],
        [f"{long}1{long}", f"{long}2{long}"],
    ):
        runs = run_names([Path(folder) for folder in (*folders, folders[0])])
        assert [*runs.values()] == [Path(folder) for folder in folders]
    assert [*runs] == [f"{long[:29]}…{long[:30]}", f"{long[:29]}…{long[:30]} (2)"]


def test_runs_are_named_by_their_folders(tmp_path: Path) -> None:
    """By their paths where two have one name; without what a terminal would act on, and not for ever."""
    one, two, three = tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"
    assert list(run_names([one, three])) == ["run", "c"]
    assert list(run_names([two / "..", three])) == ["b", "c"]
    names = list(run_names([Path("a/run"), Path("b/run"), three]))
    assert names == ["a/run", "b/run", "c"]
    (name,) = run_names([tmp_path / f"\x1b[31mred\n{'x' * 100}"])
    assert name.startswith("�[31mred�xxx")
    assert len(name) == 60
    os.symlink("loop", tmp_path / "loop")
    assert list(run_names([tmp_path / "loop"])) == ["loop"]
    with pytest.raises(ConfigError, match="7 runs in one chart: give 1 to 6"):
        run_names([Path(str(i)) for i in range(7)])
