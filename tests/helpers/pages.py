"""HTML pages as a parser and as a browser read them."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "link", "img", "input", "br", "hr", "wbr"}

HARNESS = Path(__file__).with_name("harness.js")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tree(HTMLParser):
    """The parsed page: tags with attributes, and texts by the tags around them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def inside(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def browsed(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a browser; the result's standard output is the page when it and its frames have been loaded."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)


def seen(texts: Sequence[str], look: Path, folder: Path, dark: bool) -> list[dict[str, Any]]:
    """Return a script's findings on pages in a browser, each at a phone's and at a desktop's width.

    Args:
        texts: the pages.
        look: JavaScript with a function `look` of the frame of a page.
        folder: folder for temporary files.
        dark: whether the system prefers dark pages.
    """
    frames = "".join(
        f'<iframe width="{wide}" height="900" srcdoc="{html.escape(text)}"></iframe>'
        for text in texts
        for wide in (390, 1280)
    )
    script = HARNESS.read_text() + look.read_text()
    (folder / "harness.html").write_text(f"<!doctype html><body>{frames}<pre></pre><script>{script}</script>")
    done = browsed(folder / "harness.html", folder, f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    found: list[dict[str, Any]] = json.loads(html.unescape(done.stdout.rpartition("<pre>")[2].partition("</pre>")[0]))
    return found
