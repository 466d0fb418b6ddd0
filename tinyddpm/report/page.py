"""The report: one HTML page on runs that needs no network, no server and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files

from tinyddpm import __version__
from tinyddpm.figures.markup import Children, Element, node
from tinyddpm.figures.svg import number
from tinyddpm.report.document import document
from tinyddpm.report.folder import Run
from tinyddpm.report.metrics import last
from tinyddpm.report.sections import SECTIONS, parameters_of, steps_of, time_of


def page(runs: Sequence[Run], now: datetime) -> str:
    """Return the report of one run, or of several side by side, as HTML. `now` is the time in its footer."""
    style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    title = ", ".join(run.name for run in runs)
    found = [section for make in SECTIONS if (section := make(runs)) is not None]
    return document(
        title,
        style,
        script,
        node("header", {}, node("h1", {}, title), _tiles(runs[0]) if len(runs) == 1 else None, _contents(found)),
        node("main", {}, found),
        node("footer", {}, f"Written by tinyddpm {__version__}, {now:%d %B %Y, %H:%M %Z}".strip()),
    )


def _tiles(run: Run) -> Element:
    """Return the key numbers of a run: steps, held-out loss, parameters and time."""
    parameters, held = parameters_of(run), run.logged.curves.get("validation_loss")
    found = {
        "steps": number(steps_of(run)),
        "held-out loss": number(last(held)[1]) if held else None,
        "parameters": number(parameters) if parameters else None,
        "time": time_of(run),
    }
    shown: list[Children] = [
        node("div", {}, node("dt", {}, name), node("dd", {}, words)) for name, words in found.items() if words
    ]
    return node("dl", {"class": "tiles"}, shown)


def _contents(sections: Sequence[Element]) -> Element:
    """Return links to the sections."""
    links = ((f"#{section.get('id')}", section.findtext("h2", "")) for section in sections)
    return node("nav", {"aria-label": "Sections"}, (node("a", {"href": href}, title) for href, title in links))
