"""A page as one HTML file that contains its style and its script, and loads nothing."""

from __future__ import annotations

import base64
from hashlib import sha256

from tinyddpm.figures.markup import Children, node, source, written


def document(title: str, style: str, script: str, *body: Children) -> str:
    """Return a page as HTML.

    Its Content-Security-Policy forbids the browser to load anything, and to run any script but the page's own.

    Args:
        title: title of the window.
        style: style sheet.
        script: script at the end of the page.
        body: elements of the page.
    """
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
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
    whole = node("html", {"lang": "en"}, head, node("body", {}, body, source("script", script)))
    return "<!doctype html>\n" + written(whole) + "\n"


def _hash(text: str) -> str:
    """Return the hash by which a policy permits a style or a script."""
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"
