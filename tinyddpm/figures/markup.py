"""HTML and SVG as trees of elements, whose texts are escaped when they are written."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Element: TypeAlias = ET.Element
Children: TypeAlias = "Element | str | Iterable[Children] | None"

LONGEST = 600
"""Letters of a text at most; what is longer is cut, for it may come from any file."""

OURS = ("src", "d", "content")
"""Attributes that are never a text from a file, and may be longer: pictures, paths, policies."""

REFUSED = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")
"""What HTML has no place for: control characters, halves of surrogate pairs, and what are no characters."""


def node(tag: str, attributes: Mapping[str, str] | None = None, *children: Children) -> Element:
    """Return an element with attributes and children: elements, texts, several of them, or None for nothing."""
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
    """Return a `style` or `script` element with source of ours, which is written as it is."""
    made = ET.Element(tag)
    made.text = text
    return made


def clean(text: str, longest: int | None = LONGEST) -> str:
    """Return a text without what HTML has no place for, and no longer than it may be."""
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]}… ({len(text) - longest:,} more letters)"
    return REFUSED.sub("\N{REPLACEMENT CHARACTER}", text)


def written(root: Element) -> str:
    """Return an element as HTML."""
    return ET.tostring(root, encoding="unicode", method="html")
