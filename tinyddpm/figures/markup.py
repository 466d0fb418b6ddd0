"""HTML and SVG as trees of elements. Texts are escaped when a tree is serialised."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Element: TypeAlias = ET.Element
Children: TypeAlias = "Element | str | Iterable[Children] | None"

LONGEST = 600
"""Most characters of a text. Longer texts are cut, because they may come from any file."""

OURS = ("src", "d", "content")
"""Attributes without a limit of length, because they never come from a file: pictures, paths, policies."""

REFUSED = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")
"""Characters that HTML forbids: control characters, lone surrogates and noncharacters."""


def node(tag: str, attributes: Mapping[str, str] | None = None, *children: Children) -> Element:
    """Return an element. Children are elements, texts, iterables of either, or None, which is skipped."""
    given = attributes or {}
    made = ET.Element(tag, {key: clean(value, None if key in OURS else LONGEST) for key, value in given.items()})
    _add(made, children)
    return made


def _add(parent: Element, children: Iterable[Children]) -> None:
    for child in children:
        if isinstance(child, str):
            text = clean(child, LONGEST)
            if len(parent):
                parent[-1].tail = (parent[-1].tail or "") + text
            else:
                parent.text = (parent.text or "") + text
        elif isinstance(child, ET.Element):
            parent.append(child)
        elif child is not None:
            _add(parent, child)


def source(tag: str, text: str) -> Element:
    """Return a `style` or `script` element whose text is not escaped: only for source of this library."""
    made = ET.Element(tag)
    made.text = text
    return made


def clean(text: str, longest: int | None = LONGEST) -> str:
    """Replace characters that HTML forbids, and cut a text to `longest` characters unless that is None."""
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]}… ({len(text) - longest:,} more letters)"
    return REFUSED.sub("\N{REPLACEMENT CHARACTER}", text)


def written(root: Element) -> str:
    """Serialise an element as HTML."""
    return ET.tostring(root, encoding="unicode", method="html")
