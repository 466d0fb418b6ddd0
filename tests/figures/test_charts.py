"""Charts in the terminal and by matplotlib: what stands in them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tinyddpm.diffusion.schedules import cosine, linear
from tinyddpm.errors import ConfigError
from tinyddpm.figures.charts import Chart, Line
from tinyddpm.figures.curves import draw_schedules
from tinyddpm.figures.terminal import line_chart, shade_chart, text_chart


def test_ascii_chart_of_a_rising_and_a_falling_line() -> None:
    """Worked out by hand: 17 steps over 17 characters, five lines, the later curve on top where they cross."""
    up = np.linspace(0, 4, 17)
    chart = line_chart({"up": up, "down": 4 - up}, width=17, height=5, encoding="ascii")
    # Values that fall between two lines go to the even one, as NumPy rounds halves.
    assert chart.splitlines() == [
        "4 |+++           ***",
        "  |   +++     ***   ",
        "2 |      +++++      ",
        "  |   ***     +++   ",
        "0 |***           +++",
        "  +-----------------",
        "   t = 0          16",
        "*** up   +++ down",
    ]


def test_shades_are_means_of_cells() -> None:
    """Worked out by hand: over three cells of one place's width, the last of them all but full."""
    values = np.array([[0.0, 0, 2, 2], [1, 1, 1, 1], [9, 0, 0, 0]])
    plain = shade_chart(values, (0, 6), 2, steps=8, width=6, height=3, encoding="ascii")
    assert plain.splitlines() == [
        "5 |@@==  ",
        "3 |====  ",
        "1 |  ==@@",
        "  +------",
        "   t = 07",
        " .:-=+*#%@ from 0 to 2 and more",
    ]
    assert "│██▒▒  " in shade_chart(values, (0, 6), 2, steps=8, width=6, height=3, encoding="utf-8")


def test_shades_keep_the_mass_of_a_narrow_peak() -> None:
    """Between two lines of a coarse chart, where a point taken in each cell would miss it."""
    x = np.linspace(-1, 1, 401)
    peak = np.exp(-((x - 0.2) ** 2) / (2 * 0.02**2)) / (0.02 * (2 * np.pi) ** 0.5)
    first = shade_chart(np.stack([peak, peak]), (-1, 1), 2, steps=2, width=6, height=5, encoding="ascii")
    assert [line[-1] for line in first.splitlines()[:5]] == [*" **  "], "1.25 of 2 in two cells"


@pytest.mark.slow
@given(
    y=hnp.arrays(np.float64, st.integers(2, 300), elements=st.floats(-1e6, 1e6)),
    width=st.integers(16, 90),
    height=st.integers(2, 30),
)
def test_charts_are_rectangles_of_their_size_with_the_curve_in_every_column(
    y: np.ndarray, width: int, height: int
) -> None:
    """Over curves and sizes, braille and ASCII: no column is empty, the range is labelled, and ASCII stays ASCII."""
    for encoding in ("utf-8", "ascii"):
        chart = line_chart({"curve": y}, width, height, encoding=encoding)
        chart.encode(encoding)
        *plot, axis, steps, legend = chart.splitlines()
        assert len(plot) == height
        assert {len(line) for line in [*plot, axis, steps]} == {len(plot[0])}
        assert all(set(column) - set(" ⠀") for column in zip(*(line[-width:] for line in plot), strict=True))
        low, high = y.min(), y.max() if y.max() > y.min() else y.max() + (abs(y.max()) or 1)
        assert plot[0].split()[0] == f"{high:.3g}"
        assert plot[-1].split()[0] == f"{low:.3g}"
        assert steps.split() == ["t", "=", "0", str(len(y) - 1)]
        assert legend.endswith(" curve")


def test_steep_curves_are_joined() -> None:
    """A jump up and one down, one character a step: no line between the two levels is left out."""
    chart = line_chart({"jumps": np.repeat([0.0, 1, 0], [5, 6, 5])}, width=16, height=4, encoding="ascii")
    assert [line[-16:] for line in chart.splitlines()[:4]] == [
        "     ******     ",
        "     *     *    ",
        "     *     *    ",
        "*****      *****",
    ]


def test_braille_dots_of_a_line() -> None:
    """A falling line over 16 × 2 characters is 32 × 8 dots, set by the bits of Unicode's braille block."""
    chart = line_chart({"down": np.linspace(7, 0, 32)}, width=16, height=2, encoding="utf-8")
    rows = [line[-16:] for line in chart.splitlines()[:2]]
    bits = [[1, 2, 4, 64], [8, 16, 32, 128]]
    dots = {
        (4 * i + r, 2 * j + c)
        for i, row in enumerate(rows)
        for j, cell in enumerate(row)
        for c in (0, 1)
        for r in range(4)
        if (ord(cell) - 0x2800) & bits[c][r]
    }
    assert dots == {(round(x * 7 / 31), x) for x in range(32)}


def test_curves_differ_by_their_dashes_and_the_legend_shows_how() -> None:
    flat = {name: np.full(10, float(i)) for i, name in enumerate("abcd")}
    chart = line_chart(flat, width=16, height=7, encoding="utf-8").splitlines()
    legend = chart[-1]
    assert [word for word in legend.split() if word in flat] == list("abcd")
    samples = {legend[legend.index(f" {name}") - 6 : legend.index(f" {name}")] for name in flat}
    assert len(samples) == 4
    inked = [sum(bin(ord(c) - 0x2800).count("1") for c in chart[row][-16:]) for row in (6, 4, 2, 0)]
    assert inked == [32, 4 * 5, 11, 5], "of 32 dots: all, 5 of each 8, each third, each seventh"


def test_more_curves_than_dashes_get_marks() -> None:
    chart = line_chart({f"c{i}": np.full(5, float(i)) for i in range(8)}, width=16, height=8, encoding="utf-8")
    assert [line[-16:] for line in chart.splitlines()[:8]] == [mark * 16 for mark in "&%@#xo+*"]


def test_logarithmic_charts_draw_powers_as_a_line() -> None:
    y = 10.0 ** np.arange(-4, 5)
    logarithmic = line_chart({"y": y}, 17, 9, log=True, encoding="ascii").splitlines()
    straight = line_chart({"y": np.arange(-4, 5)}, 17, 9, encoding="ascii").splitlines()
    assert [line[-17:] for line in logarithmic[:9]] == [line[-17:] for line in straight[:9]]
    assert [logarithmic[i].split()[0] for i in (0, 4, 8)] == ["1e+04", "1", "0.0001"]


def test_no_colour_and_no_control_characters() -> None:
    chart = line_chart({"a": np.arange(5.0), "b": np.ones(5)}, encoding="utf-8")
    assert all(c == "\n" or c.isprintable() for c in chart)


@pytest.mark.parametrize(
    ("series", "settings", "line"),
    [
        ({}, {}, "0 curves"),
        ({str(i): np.arange(3.0) for i in range(9)}, {}, "9 curves in one chart: give 1 to 8"),
        ({"a": np.arange(3.0), "b": np.arange(4.0)}, {}, "same number of steps"),
        ({"a": np.arange(1.0)}, {}, "at least 2"),
        ({"a": np.zeros((2, 2))}, {}, "same number of steps"),
        ({"a": np.array([1, np.nan])}, {}, "a has values that are not finite"),
        ({"a": np.array([1.0, 0.0])}, {"log": True}, "a goes down to 0: .* above 0"),
        ({"a": np.arange(3.0)}, {"width": 15}, "15 by 16 characters is too small"),
        ({"a": np.arange(3.0)}, {"height": 1}, "72 by 1 characters is too small"),
    ],
)
def test_what_cannot_be_charted_is_refused(series: dict[str, np.ndarray], settings: dict[str, int], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        line_chart(series, **settings)


@pytest.mark.slow
def test_drawn_schedules_have_four_charts_with_every_schedule(tmp_path: Path, drawn: list[Any]) -> None:
    """The curves are looked up in the figure itself, and the file is a picture that is not blank."""
    draw_schedules({"linear": linear(50), "cosine": cosine(80)}, tmp_path / "schedules.png")
    (figure,) = drawn
    assert len(figure.axes) == 4
    for chart in figure.axes:
        assert [len(line.get_xdata()) for line in chart.lines] == [50, 80]
        assert chart.get_title()
    np.testing.assert_array_equal(figure.axes[3].lines[0].get_ydata(), linear(50))
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata() ** 2, np.cumprod(1 - cosine(80)))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["linear, T = 50", "cosine, T = 80"]
    with Image.open(tmp_path / "schedules.png") as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["schedules.png"]


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'tinyddpm\[figures\]'"):
        draw_schedules({"linear": linear(50)}, tmp_path / "schedules.png")
    assert not list(tmp_path.iterdir())


def test_bad_schedules_are_not_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match="no schedule to draw"):
        draw_schedules({}, tmp_path / "schedules.png")
    with pytest.raises(ConfigError, match="mine: beta at index 1"):
        draw_schedules({"mine": np.array([0.1, 1.5])}, tmp_path / "schedules.png")
    assert not list(tmp_path.iterdir())


def test_a_chart_of_lines_of_different_length() -> None:
    """Worked out by hand, 21 steps over 21 characters: what is behind is dotted and hidden by what is before it, and
    there is nothing where a line has not begun or has ended.
    """
    steps = list(range(21))
    whole = Line("whole", (steps, [2 - step / 10 for step in steps]))
    part = Line("part", ([5, 10], [2.0, 2.0]), 1)
    raw = Line("raw", (steps, [0.0] * 21), faint=True)
    chart = text_chart(Chart("loss", (whole, part, raw)), width=24, height=3, encoding="ascii")
    assert chart == [
        "2 |*****++++++          ",
        "1 |      *********      ",
        "0 |...............******",
        "  +---------------------",
        "   step 0             20",
    ]


def test_colours_follow_the_lines_and_take_no_room() -> None:
    lines = (Line("a", ([0, 10], [1.0, 1.0]), 1), Line("b", ([0, 10], [0.0, 0.0]), 0, faint=True))
    plain = text_chart(Chart("loss", lines), 30, 2, encoding="utf-8")
    coloured = text_chart(Chart("loss", lines), 30, 2, colour=True, encoding="utf-8")
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in coloured] == plain
    assert set(re.findall(r"\x1b\[([\d;]+)m", coloured[0])) == {"33", "0"}
    assert set(re.findall(r"\x1b\[([\d;]+)m", coloured[1])) == {"2;36", "0"}
    six = tuple(Line(str(n), ([0, 1], [n, n]), n) for n in range(6))
    assert not set("⠉⠤⣀") & set("".join(text_chart(Chart("six", six), 30, 6, encoding="utf-8")))
    assert set("".join(text_chart(Chart("six", six), 30, 6, colour=True, encoding="utf-8"))) & set("⠉⠒⠤⣀")
