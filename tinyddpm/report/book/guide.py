"""The guide: pages on how the library is used, written as Markdown, which is read in the repository too."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tinyddpm.errors import ConfigError
from tinyddpm.figures.markup import Children, Element, node
from tinyddpm.report.folder import read_picture

if TYPE_CHECKING:
    from markdown_it.token import Token
    from markdown_it.tree import SyntaxTreeNode

TOPICS = (
    "training", "sampling", "editing", "likelihood", "quality", "speed", "ranks", "figures", "python", "plugins",
    "reading", "checks",
)  # fmt: skip
"""The pages, in their order; each is a file `guide/TOPIC.md`."""

AS_THEY_ARE = {
    "paragraph": "p", "bullet_list": "ul", "ordered_list": "ol", "list_item": "li", "table": "table", "thead": "thead",
    "tbody": "tbody", "tr": "tr", "th": "th", "td": "td", "strong": "strong", "em": "em", "blockquote": "blockquote",
}  # fmt: skip
"""Elements of HTML by their names in Markdown's tree."""


def guide_page(topic: str) -> str:
    """Return the name of a topic's page."""
    return f"guide-{topic}.html"


def require_markdown() -> None:
    """Refuse to go on where Markdown cannot be read.

    Raises:
        ConfigError: its library is not installed.
    """
    if find_spec("markdown_it") is None:
        raise ConfigError("the book's guide needs markdown-it-py: run pip install 'tinyddpm[book]'")


class Guide:
    """A page of the guide.

    Attributes:
        title: its heading.
        body: what follows it.
        sections: the headings in it.

    Args:
        topic: one of `TOPICS`.

    Raises:
        ConfigError: Markdown cannot be read here.
    """

    def __init__(self, topic: str) -> None:
        require_markdown()
        from markdown_it import MarkdownIt
        from markdown_it.tree import SyntaxTreeNode

        self._folder = Path(str(files("tinyddpm.report.book"))) / "guide"
        text = (self._folder / f"{topic}.md").read_text(encoding="utf-8")
        tokens: Sequence[Token] = MarkdownIt("commonmark", {"html": False}).enable("table").parse(text)
        heading, *rest = SyntaxTreeNode(tokens).children
        self.title = heading.children[0].content
        self.body = [self._made(each) for each in rest]
        self.sections = [each.children[0].content for each in rest if each.type == "heading"]

    def _made(self, found: SyntaxTreeNode) -> Children:
        """Return a node of Markdown's tree as elements."""
        below = [self._made(child) for child in found.children]
        if found.type in AS_THEY_ARE:
            made = node(AS_THEY_ARE[found.type], {}, below)
            return node("div", {"class": "scroll"}, made) if found.type == "table" else made
        match found.type:
            case "inline":
                return below
            case "text":
                return found.content
            case "softbreak":
                return "\n"
            case "code_inline":
                return node("code", {}, found.content)
            case "fence":
                return node("pre", {}, node("code", {}, [f"{line}\n" for line in found.content.splitlines()]))
            case "heading":
                return node(found.tag, {}, below)
            case "link":
                return self._link(str(found.attrs["href"]), below)
            case "image":
                return self._image(str(found.attrs["src"]), found.content)
            case "html_block" | "html_inline":
                return None  # a mark for what reads the file
        raise ValueError(f"the guide has a {found.type}, for which there is no element")

    def _link(self, address: str, text: Children) -> Children:
        """Return a link to another page of the guide or to the network; of a file of the repository, its name alone."""
        if urlsplit(address).scheme:
            return node("a", {"href": address}, text)
        topic = Path(address).stem
        return node("a", {"href": guide_page(topic)}, text) if address == f"{topic}.md" else text

    def _image(self, address: str, seen: str) -> Element | None:
        """Return a picture of the repository, which an installed package has not."""
        path = self._folder / address
        if not path.is_file():
            return None
        return node("img", {"src": read_picture(path).address, "alt": seen})
