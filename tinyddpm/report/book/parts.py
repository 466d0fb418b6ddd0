"""The page of every registered part, with its options and their defaults."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from tinyddpm import registry
from tinyddpm.errors import RegistryError
from tinyddpm.figures.markup import Element, node
from tinyddpm.report.book.library import Library, page_of
from tinyddpm.report.book.prose import Writer, blocks, summary
from tinyddpm.report.book.tables import stacked

GROUPS = tuple(group for group in registry.GROUPS if group != "commands")


def sections(library: Library) -> list[Element]:
    """Return one section per group of parts."""
    return [
        node(
            "section",
            {"id": group},
            node("h2", {}, group),
            (_part(library, entry) for entry in registry.entries(group)),
        )
        for group in GROUPS
    ]


def _part(library: Library, entry: registry.Entry) -> Element:
    """Return an article on a part: its address, summary and options; for a part that fails to load, the error."""
    module, _, name = entry.value.removeprefix("tinyddpm.").partition(":")
    there = library.modules.get(module) if entry.value.startswith("tinyddpm.") else None
    writer = library.writer(there)
    title = node("h3", {}, node("code", {}, entry.name))
    where = node("code", {}, entry.value)
    place = node("a", {"href": f"{page_of(module)}#{name}"}, where) if there and name in there.lines else where
    try:
        plugin = registry.load(entry.group, entry.name)
        options = registry.options(plugin)
    except (RegistryError, TypeError, ValueError) as error:
        return node("article", {"id": _anchor(entry)}, title, node("p", {"class": "aside"}, place, f": {error}"))
    doc = inspect.cleandoc(plugin.__doc__ or "")
    return node(
        "article",
        {"id": _anchor(entry)},
        title,
        node("p", {}, writer.sentence(summary(doc))),
        node("p", {"class": "aside"}, place),
        _options(writer, options, _said(doc)) if options else None,
    )


def _anchor(entry: registry.Entry) -> str:
    return f"{entry.group}-{entry.name}"


def _said(doc: str) -> dict[str, str]:
    """Return the descriptions in a docstring's Args section, by argument."""
    return {entry.name: entry.text for block in blocks(doc) if block.kind == "Args" for entry in block.entries}


def _options(writer: Writer, options: Mapping[str, inspect.Parameter], said: Mapping[str, str]) -> Element:
    rows = (
        node(
            "tr",
            {},
            node("th", {"scope": "row"}, node("code", {}, name)),
            node("td", {}, node("code", {}, _default(option.default))),
            node("td", {}, writer.sentence(said.get(name, ""))),
        )
        for name, option in options.items()
    )
    return stacked(("option", "default", "meaning"), rows)


def _default(value: Any) -> str:
    return "required" if value is inspect.Parameter.empty else repr(value)
