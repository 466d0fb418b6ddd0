"""Tables of the book. On a narrow screen the cells of a row are stacked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tinyddpm.figures.markup import Element, node


def stacked(columns: Sequence[str], rows: Iterable[Element]) -> Element:
    """Return a table that a narrow screen stacks: its cells must be clear without the column headings."""
    head = node("tr", {}, (node("th", {"scope": "col"}, name) for name in columns))
    table = node("table", {"class": "stacked"}, node("thead", {}, head), node("tbody", {}, rows))
    return node("div", {"class": "scroll"}, table)
