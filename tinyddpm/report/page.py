"""One HTML page with all that is known of runs: it needs no network, no server and no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from importlib.resources import files

from tinyddpm import __version__
from tinyddpm.figures.markup import Children, Element, node, source, written
from tinyddpm.figures.svg import number
from tinyddpm.report.folder import Run
from tinyddpm.report.metrics import last
from tinyddpm.report.sections import SECTIONS, parameters_of, steps_of, time_of


def page(runs: Sequence[Run], now: datetime) -> str:
    """Return the page of one run, or of several beside each other, as HTML.

    A policy in it forbids the browser to ask the network for anything, and to run any script but the page's own.
    """
    style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    title = ", ".join(run.name for run in runs)
    head = node(
        "head",
        {},
        node("meta", {"charset": "utf-8"}),
        node("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        node("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        node("link", {"rel": "icon", "href": "data:,"}),
        node("title", {}, title),
        source("style", style),
    )
    found = [section for make in SECTIONS if (section := make(runs)) is not None]
    body = node(
        "body",
        {},
        node("header", {}, node("h1", {}, title), _tiles(runs[0]) if len(runs) == 1 else None, _contents(found)),
        node("main", {}, found),
        node("footer", {}, f"Written by tinyddpm {__version__}, {now:%d %B %Y, %H:%M %Z}".strip()),
        source("script", script),
    )
    return "<!doctype html>\n" + written(node("html", {"lang": "en"}, head, body)) + "\n"


def _hash(text: str) -> str:
    """Return the hash by which a policy names a style or a script."""
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def _tiles(run: Run) -> Element:
    """Return the few numbers that are looked for first."""
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
