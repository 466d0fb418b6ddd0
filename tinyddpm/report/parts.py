"""Building blocks of a report's sections: tables, pictures, lists of facts, and numbers from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from tinyddpm.figures.charts import Chart
from tinyddpm.figures.markup import Children, Element, node
from tinyddpm.figures.svg import number, svg_chart, swatch
from tinyddpm.report.folder import Picture, Run

NOTHING = "–"


def section(title: str, anchor: str, *content: Children) -> Element:
    """Return a section of a page with the HTML id `anchor`."""
    return node("section", {"id": anchor, "aria-labelledby": f"{anchor}-title"}, _heading(title, anchor), content)


def _heading(title: str, anchor: str) -> Element:
    return node("h2", {"id": f"{anchor}-title"}, title)


def table(
    caption: str, columns: Sequence[str], rows: Mapping[str, Sequence[Children]], marked: Sequence[str] = ()
) -> Element:
    """Return a table that scrolls horizontally if it is too wide.

    Args:
        caption: caption of the table.
        columns: headings of the columns, that of the rows' names first.
        rows: cells of each row, by the row's name.
        marked: names of rows in which the runs differ, which are highlighted.
    """
    unseen = {"class": "unseen"}, " (differs)"
    head = node("tr", {}, (node("th", {"scope": "col"}, name) for name in columns))
    body = [
        node(
            "tr",
            {"class": "differs"} if name in marked else {},
            node("th", {"scope": "row"}, name, node("span", *unseen) if name in marked else None),
            (node("td", {}, cell) for cell in cells),
        )
        for name, cells in rows.items()
    ]
    whole = node("table", {}, node("caption", {}, caption), node("thead", {}, head), node("tbody", {}, body))
    return node("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption}, whole)


def facts(found: Mapping[str, str]) -> Element:
    """Return a list of texts by name."""
    pairs = ((node("dt", {}, name), node("dd", {}, text)) for name, text in found.items())
    return node("dl", {}, (node("div", {}, pair) for pair in pairs))


def folded(summary: str, *content: Children, opened: bool = False) -> Element:
    """Return content that is hidden behind a summary until it is opened; `opened` shows it at first."""
    return node("details", {"open": ""} if opened else {}, node("summary", {}, summary), content)


def figure(picture: Picture, told: str, caption: Children = None) -> Element:
    """Return a picture below its caption. `told` is its text for screen readers."""
    size = {"width": str(picture.width), "height": str(picture.height)}
    image = node("img", {"src": picture.address, "alt": told, **size})
    return node("figure", {}, node("figcaption", {}, caption) if caption else None, image)


def charts_of(charts: Sequence[Chart]) -> Element:
    """Return charts with their titles, side by side as far as there is room."""
    return node(
        "div",
        {"class": "charts"},
        (node("figure", {}, node("figcaption", {}, chart.title), svg_chart(chart)) for chart in charts),
    )


def legend(runs: Sequence[Run]) -> Element | None:
    """Return the legend of the runs' lines; None for a single run."""
    if len(runs) == 1:
        return None
    return node("ul", {"class": "legend"}, (node("li", {}, swatch(i), run.name) for i, run in enumerate(runs)))


def beside(runs: Sequence[Run], contents: Sequence[Children]) -> Element | None:
    """Return the content of each run side by side, with the runs' names as headings if there are several."""
    shown = [
        node("article", {}, node("h3", {}, run.name) if len(runs) > 1 else None, content)
        for run, content in zip(runs, contents, strict=True)
        if content
    ]
    return node("div", {"class": "beside"}, shown) if shown else None


def part_of(found: Any, *keys: str) -> Any:
    """Return the value under a sequence of keys in nested tables; None if there is none."""
    for key in keys:
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    return found


def value(found: Any) -> float | None:
    """Return `found` as a float if it is a finite number, otherwise None."""
    return float(found) if type(found) in (int, float) and abs(found) < 1e300 and isfinite(found) else None


def numbers(found: Any) -> list[float]:
    """Return `found` as a list of floats if it is a list of finite numbers, otherwise an empty list."""
    values = [value(item) for item in found] if isinstance(found, list) else []
    return [item for item in values if item is not None] if None not in values else []


def told(found: float | None, error: float | None = None) -> str:
    """Format a number, with its standard error if given; None is a dash."""
    if found is None:
        return NOTHING
    return number(found) if error is None else f"{number(found)} ± {error:.2g}"
