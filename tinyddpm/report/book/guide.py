"""The guide: pages on the use of the library, converted from Markdown files that can also be read in the repository."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tinyddpm.errors import ConfigError
from tinyddpm.figures.markup import Children, node
from tinyddpm.report.book.prose import Link, formulas
from tinyddpm.report.folder import read_picture

if TYPE_CHECKING:
    from markdown_it.token import Token
    from markdown_it.tree import SyntaxTreeNode

TOPICS = (
    "training", "sampling", "editing", "likelihood", "quality", "speed", "ranks", "figures", "python", "plugins",
    "checks", "reading",
)  # fmt: skip
"""Topics of the guide in order. Each is a file `guide/TOPIC.md`."""

AS_THEY_ARE = {
    "paragraph": "p", "bullet_list": "ul", "ordered_list": "ol", "list_item": "li", "table": "table", "thead": "thead",
    "tbody": "tbody", "tr": "tr", "th": "th", "td": "td", "strong": "strong", "em": "em", "blockquote": "blockquote",
}  # fmt: skip
"""HTML tags by markdown-it's node types, for nodes that translate one to one."""


def guide_page(topic: str) -> str:
    """Return the name of a topic's page."""
    return f"guide-{topic}.html"


def require_markdown() -> None:
    """Raise ConfigError if markdown-it-py, which parses the guide, is not installed."""
    if find_spec("markdown_it") is None:
        raise ConfigError("the book's guide needs markdown-it-py: run pip install 'tinyddpm[book]'")


class Guide:
    """A page of the guide, parsed.

    Attributes:
        title: text of the first heading.
        body: elements after that heading.
        sections: texts of the other headings.

    Args:
        topic: one of `TOPICS`.
        link: returns the address of a name or a file in backticks.

    Raises:
        ConfigError: markdown-it-py is not installed.
        DataError: a picture cannot be read.
    """

    def __init__(self, topic: str, link: Link) -> None:
        require_markdown()
        from markdown_it import MarkdownIt
        from markdown_it.tree import SyntaxTreeNode

        self._name_link = link
        self._folder = Path(str(files("tinyddpm.report.book"))) / "guide"
        text = (self._folder / f"{topic}.md").read_text(encoding="utf-8")
        tokens: Sequence[Token] = MarkdownIt("commonmark", {"html": False}).enable("table").parse(text)
        heading, *rest = SyntaxTreeNode(tokens).children
        self.title = heading.children[0].content
        self.body = [self._made(each) for each in rest]
        self.sections = [each.children[0].content for each in rest if each.type == "heading"]

    def _made(self, found: SyntaxTreeNode) -> Children:
        """Convert a node of the Markdown tree to elements."""
        below = [self._made(child) for child in found.children]
        if found.type in AS_THEY_ARE:
            made = node(AS_THEY_ARE[found.type], {}, below)
            return node("div", {"class": "scroll"}, made) if found.type == "table" else made
        match found.type:
            case "inline":
                return below
            case "text":
                return formulas(found.content)
            case "softbreak":
                return "\n"
            case "code_inline":
                code, target = node("code", {}, found.content), self._name_link(found.content)
                return node("a", {"href": target}, code) if target else code
            case "fence":
                return node("pre", {}, node("code", {}, [f"{line}\n" for line in found.content.splitlines()]))
            case "heading":
                return node(found.tag, {}, below)
            case "link":
                return self._link(str(found.attrs["href"]), below)
            case "image":
                picture = read_picture(self._folder / str(found.attrs["src"]))
                return node("img", {"src": picture.address, "alt": found.content})
        raise ValueError(f"the guide has a {found.type}, for which there is no element")

    def _link(self, address: str, text: Children) -> Children:
        """Return a link to a page of the guide or to the network; for a file of the repository, the text alone."""
        if urlsplit(address).scheme:
            return node("a", {"href": address}, text)
        topic = Path(address).stem
        return node("a", {"href": guide_page(topic)}, text) if address == f"{topic}.md" else text
