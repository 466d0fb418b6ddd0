"""Tables of the book, which a phone shows row by row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tinyddpm.figures.markup import Element, node


def stacked(columns: Sequence[str], rows: Iterable[Element]) -> Element:
    """Return a table of rows whose cells can be understood below each other, without the columns' headings."""
    head = node("tr", {}, (node("th", {"scope": "col"}, name) for name in columns))
    table = node("table", {"class": "stacked"}, node("thead", {}, head), node("tbody", {}, rows))
    return node("div", {"class": "scroll"}, table)
