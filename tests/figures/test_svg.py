"""Charts as SVG, markup and matplotlib's pictures: where the points of a curve come to lie, and what a text becomes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.figures.charts import Chart, Line
from tinyddpm.figures.markup import LONGEST, node, written
from tinyddpm.figures.panels import draw_charts
from tinyddpm.figures.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, number, svg_chart, thinned


def paths(chart: Chart) -> dict[str, np.ndarray]:
    """The points (n, 2) of each line by its classes."""
    found = {}
    for path in svg_chart(chart).iter("path"):
        points = [step.split() for step in path.get("d", "")[1:].split(" L")]
        found[path.get("class", "")] = np.array(points, np.float64)
    return found


def test_powers_lie_on_a_line_over_all_of_the_plot() -> None:
    """y = 10^(-x) on a logarithmic axis, to the tenth of a pixel that paths are rounded to."""
    x = np.linspace(0, 4, 9)
    drawn = paths(Chart("y", (Line("a", (list(x), list(10**-x)), 3),), log_y=True))["line n3"]
    room = 0.12 / 4.24  # 0.03 of 4 decades, above and below
    across = LEFT + (WIDTH - LEFT - RIGHT) * x / 4
    down = TOP + (HEIGHT - TOP - BOTTOM) * (room + (1 - 2 * room) * x / 4)
    np.testing.assert_allclose(drawn, np.stack([across, down], axis=1), atol=0.0501)


def test_lines_behind_come_first_and_few_points_have_dots() -> None:
    chart = Chart("loss", (Line("a", ([1, 2], [2.0, 1.0])), Line("a, as logged", ([1, 2], [3.0, 1.0]), faint=True)))
    assert [name for name in paths(chart) if name.startswith("line")] == ["line n0 faint", "line n0"]
    drawn = svg_chart(chart)
    assert len([*drawn.iter("circle")]) == 4
    assert drawn.get("aria-label") == "loss by step. a: from 2 at 1 to 1 at 2."
    many = Line("b", (range(1000), [1.0] * 1000))
    assert not [*svg_chart(Chart("loss", (many,))).iter("circle")]
    assert svg_chart(Chart("loss", (Line("one", ([5], [0.0])),))).get("aria-label")


@given(y=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), most=st.integers(4, 50))
def test_a_thinned_curve_keeps_its_ends_and_extremes(y: list[float], most: int) -> None:
    """In order, and no more points than asked for."""
    xs, ys = thinned((range(len(y)), y), most)
    assert len(xs) == len(ys) <= max(most, len(y) if len(y) <= most else 0)
    assert list(xs) == sorted(set(xs))
    assert [y[x] for x in xs] == list(ys)
    assert (xs[0], xs[-1]) == (0, len(y) - 1)
    assert (min(ys), max(ys)) == (min(y), max(y))


def test_numbers_have_four_digits_unless_they_are_whole() -> None:
    assert [number(value) for value in (0, 35_746_307, 0.123456, 12345.6, 1e-5, -2)] == [
        "0", "35,746,307", "0.1235", "1.235e+04", "1e-05", "-2",
    ]  # fmt: skip


@given(text=st.text(max_size=60), attribute=st.text(max_size=60))
def test_texts_stay_texts(text: str, attribute: str) -> None:
    """Whatever they are: no tag begins in them, no attribute ends in them, and all can be written as UTF-8."""
    made = written(node("p", {"title": attribute}, text, node("b", {}, text), text))
    assert re.fullmatch(r'<p title="[^"]*">[^<]*<b>[^<]*</b>[^<]*</p>', made, re.DOTALL)
    made.encode()


def test_texts_lose_what_html_has_no_place_for_and_are_bounded() -> None:
    assert written(node("p", {}, "a\x00\x1b\udc80\ufdd0é🙂\n")) == "<p>a\ufffd\ufffd\ufffd\ufffdé🙂\n</p>"
    long = written(node("p", {"title": "x" * 10_000}, "y" * 10_000))
    assert len(long) < 2 * LONGEST + 100
    assert long.count("… (9,400 more letters)") == 2


def test_matplotlib_draws_the_points_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curves, axes and names are looked up in the figure."""
    figures = pytest.importorskip("matplotlib.figure")
    drawn = []

    class Figure(figures.Figure):  # type: ignore[misc, name-defined]
        def savefig(self, *arguments: object, **options: object) -> None:
            drawn.append(self)
            super().savefig(*arguments, **options)

    monkeypatch.setattr(figures, "Figure", Figure)
    two = (Line("_a", ([1, 2, 3], [3.0, 1.0, 2.0])), Line("raw", ([1, 3], [4.0, 2.0]), faint=True))
    charts = [Chart(name, two, log_y=name == "log") for name in ("log", "plain", "third")]
    draw_charts(charts, tmp_path / "a.svg")
    (figure,) = drawn
    assert [panel.get_title() for panel in figure.axes] == ["log", "plain", "third"]
    assert [panel.get_yscale() for panel in figure.axes] == ["log", "linear", "linear"]
    assert [list(line.get_ydata()) for line in figure.axes[1].lines] == [[3, 1, 2], [4, 2]]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [" _a"]
