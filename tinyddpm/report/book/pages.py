"""The pages of the book: contents, chapters, modules, equations, parts, index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from typing import TypeAlias

from tinyddpm import __version__
from tinyddpm.figures.markup import Children, Element, node, source
from tinyddpm.report.book.chapters import CHAPTERS, Chapter, chapter_of
from tinyddpm.report.book.citations import PAPERS, address
from tinyddpm.report.book.cuda import SUFFIXES
from tinyddpm.report.book.equations import KINDS, NUMBERED, Numbered
from tinyddpm.report.book.guide import Guide, guide_page
from tinyddpm.report.book.library import EQUATIONS, Library, Named, page_of, path_of
from tinyddpm.report.book.prose import Writer, summary
from tinyddpm.report.book.source import Module, Note, Row
from tinyddpm.report.book.tables import stacked
from tinyddpm.report.document import document
from tinyddpm.report.folder import Picture
from tinyddpm.report.parts import figure

TITLE = "tinyddpm, annotated"
CONTENTS, PARTS, NAMES = "index.html", "parts.html", "names.html"
PLACES = {CONTENTS: "Contents", EQUATIONS: "Equations", PARTS: "Parts", NAMES: "Index"}

PAPER_TITLES = {
    "DDPM": "Denoising diffusion probabilistic models (Ho, Jain, Abbeel 2020)",
    "IDDPM": "Improved denoising diffusion probabilistic models (Nichol, Dhariwal 2021)",
    "DDIM": "Denoising diffusion implicit models (Song, Meng, Ermon 2020)",
    "CFG": "Classifier-free diffusion guidance (Ho, Salimans 2022)",
    "EDM": "Elucidating the design space of diffusion-based generative models (Karras et al. 2022)",
}


Turn: TypeAlias = tuple[str, Children]
"""A link to another page: its address and its title."""


@dataclass(frozen=True)
class Seen:
    """A figure of a chapter: its caption and picture, or the reason why it was not drawn."""

    caption: str
    picture: Picture | None = None
    why: str = ""


class Pages:
    """Writer of the pages. Each method returns one page as HTML.

    Args:
        library: the modules.
        pictures: the figures of each chapter, by the chapter's slug.
        guides: the pages of the guide by topic, in order.
    """

    def __init__(self, library: Library, pictures: Mapping[str, Sequence[Seen]], guides: Mapping[str, Guide]) -> None:
        self.library, self.pictures, self.guides = library, pictures, guides
        texts = [_text("tinyddpm.report", "page.css"), _text(__package__, "book.css")]
        self._style, self._script = "".join(texts), _text(__package__, "book.js")
        self._writer = library.writer()

    def page(self, name: str, title: str, *content: Children, wide: bool = False) -> str:
        """Return a page: navigation bar, title, content and footer. `wide` is for prose beside code."""
        links = (
            node("a", {"href": place} | ({"aria-current": "page"} if place == name else {}), text)
            for place, text in PLACES.items()
        )
        heading = self._writer.sentence(title)
        if wide:  # a dotted name, which may break after a sign
            heading = [[part, node("wbr")] for part in re.split(r"(?<=[._])", title)]
        return document(
            title if name == CONTENTS else f"{title} · {TITLE}",
            self._style,
            self._script if name == CONTENTS else "",
            node("nav", {"class": "bar", "aria-label": "The book"}, node("strong", {}, TITLE), links),
            node("main", {"class": "wide"} if wide else {}, node("h1", {}, heading), content),
            node("footer", {}, f"Made from the source of tinyddpm {__version__}."),
        )

    def contents(self) -> str:
        """Return the first page: search, guide, chapters and papers."""
        chapters = (
            node(
                "li",
                {},
                node("a", {"href": chapter_page(chapter)}, self._writer.sentence(chapter.title)),
                node("p", {}, self._writer.sentence(chapter.about)),
            )
            for chapter in CHAPTERS
        )
        guides = (
            node("li", {}, node("a", {"href": guide_page(topic)}, guide.title), _told(guide))
            for topic, guide in self.guides.items()
        )
        papers = (
            node("li", {}, node("a", {"href": address(paper)}, title), f", arXiv {PAPERS[paper]}")
            for paper, title in PAPER_TITLES.items()
        )
        return self.page(
            CONTENTS,
            TITLE,
            node(
                "p",
                {"class": "lead"},
                "The source of a denoising diffusion model, to be read beside the papers: explanations on the left, "
                "the code they describe on the right. Both are generated from the source. Time in code is 0-based: ",
                self._writer.sentence("t = 0 is the papers' t = 1."),
            ),
            node(
                "search",
                {},
                node("label", {"for": "words"}, "Search names, equations and parts"),
                node("input", {"id": "words", "type": "search", "autocomplete": "off", "disabled": ""}),
                node("ul", {"id": "found", "aria-live": "polite"}),
            ),
            node("h2", {}, "Guide"),
            node("ul", {}, guides),
            node("h2", {}, "Source"),
            node("ol", {"class": "chapters"}, chapters),
            node("h2", {}, "Papers"),
            node("ul", {}, papers),
            self._entries(),
        )

    def _entries(self) -> Element:
        """Return the entries of the search as a JSON script: lists of (title, address, description)."""
        modules = [[name, page_of(name), summary(module.doc)] for name, module in self.library.modules.items()]
        names = [[named.name, named.address, f"{named.about} ({named.module})"] for named in self.library.names]
        numbered = [
            [f"{each.paper} {KINDS[each.kind]} {each.number}", f"{EQUATIONS}#{each.anchor}", each.about]
            for each in NUMBERED
        ]
        chapters = [[chapter.title, chapter_page(chapter), chapter.about] for chapter in CHAPTERS]
        guides = [[guide.title, guide_page(topic), ", ".join(guide.sections)] for topic, guide in self.guides.items()]
        entries = json.dumps([*guides, *chapters, *numbered, *modules, *names])
        found = source("script", entries.replace("<", "\\u003c").replace("`", ""))
        found.set("type", "application/json")
        found.set("id", "entries")
        return found

    def guide(self, topic: str) -> str:
        """Return a page of the guide."""
        order = list(self.guides)
        place = order.index(topic)
        turns: dict[str, Turn] = {each: (guide_page(each), self.guides[each].title) for each in order}
        return self.page(
            guide_page(topic),
            self.guides[topic].title,
            self.guides[topic].body,
            _turn(
                turns[order[place - 1]] if place else (CONTENTS, "Contents"),
                turns[order[place + 1]] if place + 1 < len(order) else self._turn_to(CHAPTERS[0]),
            ),
        )

    def chapter(self, chapter: Chapter) -> str:
        """Return a chapter's page: its introduction, modules and figures."""
        number = CHAPTERS.index(chapter)
        return self.page(
            chapter_page(chapter),
            f"{number + 1}. {chapter.title}",
            node("p", {"class": "lead"}, self._writer.sentence(chapter.about)),
            node("ol", {"class": "modules"}, self._modules(chapter)),
            map(self._seen, self.pictures.get(chapter.slug, ())),
            _turn(
                self._turn_to(CHAPTERS[number - 1]) if number else (CONTENTS, "Contents"),
                (page_of(chapter.modules[0]), chapter.modules[0]),
            ),
        )

    def _turn_to(self, chapter: Chapter) -> Turn:
        return chapter_page(chapter), self._writer.sentence(chapter.title)

    def _seen(self, seen: Seen) -> Element:
        """Return a figure, or its caption with the reason why it was not drawn."""
        caption = self._writer.sentence(seen.caption)
        if seen.picture is None:
            return node("p", {"class": "aside"}, caption, f" {seen.why}")
        return figure(seen.picture, seen.caption, caption)

    def _modules(self, chapter: Chapter) -> list[Element]:
        """Return list items, links to a chapter's modules; those of a folder below are a list in the item before."""
        items: list[Element] = []
        depths = [len(path_of(name).parts) for name in chapter.modules]
        for depth, found in groupby(zip(depths, chapter.modules, strict=True), lambda pair: pair[0]):
            listed = [self._module(name) for _, name in found]
            if depth > min(depths):
                items[-1].append(node("ol", {}, listed))
            else:
                items += listed
        return items

    def _module(self, name: str) -> Element:
        """Return a list item with a link to a module and the first sentence of its docstring."""
        module = self.library.modules[name]
        first = self.library.writer(module).sentence(summary(module.doc))
        return node("li", {}, node("a", {"href": page_of(name)}, node("code", {}, name)), " ", first)

    def module(self, module: Module) -> str:
        """Return a module's page: docstrings and comments beside the code."""
        chapter = chapter_of()[module.name]
        order = list(self.library.modules)
        place = order.index(module.name)
        after = order[place + 1] if place + 1 < len(order) else None
        next_chapter = chapter_of()[after] if after else None
        onward: Turn = (NAMES, "Index")
        if after and next_chapter is chapter:
            onward = (page_of(after), after)
        elif next_chapter:
            onward = self._turn_to(next_chapter)
        before = order[place - 1] if place and chapter_of()[order[place - 1]] is chapter else None
        writer, strings = self.library.writer(module), self.library.strings(module)
        top = self._turn_to(chapter)
        return self.page(
            page_of(module.name),
            module.name,
            node(
                "p",
                {"class": "crumb"},
                "Chapter ",
                node("a", {"href": top[0]}, f"{CHAPTERS.index(chapter) + 1}. ", top[1]),
                _launched(self.library.launching(module)) if module.name.endswith(SUFFIXES) else None,
            ),
            node("div", {"class": "rows"}, (_row(row, writer, strings) for row in module.rows)),
            _turn((page_of(before), before) if before else top, onward),
            wide=True,
        )

    def equations(self) -> str:
        """Return the page of equations: a table of all numbered equations and algorithms per paper."""
        tables = (
            (
                node("h2", {"id": paper.lower()}, paper),
                node("p", {}, node("a", {"href": address(paper)}, PAPER_TITLES[paper]), f", arXiv {PAPERS[paper]}"),
                stacked(("", "statement", "code"), (self._numbered(each) for each in rows)),
            )
            for paper, rows in groupby(NUMBERED, lambda each: each.paper)
        )
        return self.page(
            EQUATIONS,
            "Equations",
            node(
                "p",
                {"class": "lead"},
                "Every numbered equation and algorithm in sections 2 to 5 of five papers, with the line that "
                "implements it, or the reason why none does.",
            ),
            _jumps("Papers", ((paper.lower(), paper) for paper in PAPER_TITLES)),
            tables,
        )

    def _numbered(self, each: Numbered) -> Element:
        if each.where:
            module, _, name = each.where.partition(":")
            line = self.library.modules[module].lines[name]
            others = [
                (other, at)
                for other, at in self.library.cited[each.paper, each.kind, each.number]
                if (other, at) != (module, line)
            ]
            where: Children = [
                node("a", {"href": f"{page_of(module)}#{name}"}, node("code", {}, name)),
                node("span", {"class": "aside"}, f" {module}, line {line}"),
                _also(others),
            ]
        elif each.same:
            paper, number = each.same
            same = next(x for x in NUMBERED if (x.paper, x.kind, x.number) == (paper, "eq", number))
            where = ["the same as ", node("a", {"href": f"#{same.anchor}"}, f"{paper}'s ({number})")]
        else:
            where = node("span", {"class": "aside"}, "not implemented: ", self._writer.sentence(each.why))
        name = f"Algorithm {each.number}" if each.kind == "algorithm" else f"({each.number})"
        return node(
            "tr",
            {"id": each.anchor},
            node("th", {"scope": "row"}, name),
            node("td", {}, self._writer.sentence(each.about)),
            node("td", {}, where),
        )

    def parts(self, sections: Sequence[Element]) -> str:
        """Return the page of all registered parts from one section per group."""
        return self.page(
            PARTS,
            "Parts",
            node(
                "p",
                {"class": "lead"},
                "Every registered part by group, with its options and their defaults. A part is chosen by its "
                "name; its options are set in the part's own table of the configuration.",
            ),
            _jumps("Kinds", ((each.get("id", ""), each.findtext("h2", "")) for each in sections)),
            sections,
        )

    def names(self) -> str:
        """Return the index of documented names, grouped by first letter."""
        of_letter = groupby(self.library.names, lambda named: named.name[0].upper())
        letters = [(letter, list(named)) for letter, named in of_letter]
        return self.page(
            NAMES,
            "Index",
            _jumps("Letters", ((letter, letter) for letter, _ in letters)),
            (
                (node("h2", {"id": letter}, letter), node("dl", {"class": "index"}, map(self._name, found)))
                for letter, found in letters
            ),
        )

    def _name(self, named: Named) -> Element:
        writer = self.library.writer(self.library.modules[named.module])
        return node(
            "div",
            {},
            node("dt", {}, node("a", {"href": named.address}, node("code", {}, named.name))),
            node("dd", {}, writer.sentence(named.about), " ", node("span", {"class": "aside"}, named.module)),
        )


def chapter_page(chapter: Chapter) -> str:
    """Return the file name of a chapter's page."""
    return f"chapter-{chapter.slug}.html"


def _launched(classes: Mapping[str, str]) -> Children:
    """Return links to the classes that launch the kernels of a page, given as addresses by names."""
    links = (node("a", {"href": address}, node("code", {}, name)) for name, address in classes.items())
    return [[", " if place else " · launched by ", link] for place, link in enumerate(links)]


def _row(row: Row, writer: Writer, strings: Mapping[str, str]) -> Element:
    """Return a row: docstrings and comments, and the code beside them. `strings` has addresses of string literals."""
    anchors = [node("span", {"id": name, "class": "anchor"}) for name in row.names]
    prose = (node("div", {"class": note.kind}, _said(note, writer)) for note in row.notes)
    lines = (
        node(
            "span",
            {"class": "l", "id": f"L{number}", "data-n": str(number)},
            (_piece(*piece, strings) for piece in pieces),
            "\n",
        )
        for number, pieces in row.code.items()
    )
    code = node("pre", {"tabindex": "0"}, node("code", {}, lines)) if row.code else None
    return node(
        "div",
        {"class": "row" if row.notes else "row bare"},
        node("div", {"class": "prose"}, anchors, prose),
        node("div", {"class": "code"}, code),
    )


def _said(note: Note, writer: Writer) -> list[Element]:
    """Return a docstring as blocks, or a comment as one paragraph."""
    return writer.document(note.text) if note.kind == "doc" else [node("p", {}, writer.sentence(note.text))]


def _text(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _piece(text: str, kind: str, strings: Mapping[str, str]) -> Children:
    if kind == "s" and text in strings:
        return node("a", {"href": strings[text], "class": kind}, text)
    return node("span", {"class": kind}, text) if kind else text


def _also(places: Sequence[tuple[str, int]]) -> Children:
    """Return links to the places that cite an equation besides its implementation, one per module."""
    links: list[Children] = []
    for module, line in dict(reversed(places)).items():  # keeps the first line of each module
        links += [", " if links else " · cited too in ", node("a", {"href": f"{page_of(module)}#L{line}"}, module)]
    return node("span", {"class": "aside"}, links) if links else None


def _jumps(name: str, places: Iterable[tuple[str, str]]) -> Element:
    """Return links to sections of the page, given as (id, title)."""
    return node("nav", {"aria-label": name}, (node("a", {"href": f"#{place}"}, title) for place, title in places))


def _turn(before: Turn, after: Turn) -> Element:
    """Return links to the previous and the next page."""
    return node(
        "nav",
        {"class": "turn", "aria-label": "Pages"},
        node("a", {"href": before[0], "rel": "prev"}, "← ", before[1]),
        node("a", {"href": after[0], "rel": "next"}, after[1], " →"),
    )


def _told(guide: Guide) -> str:
    """Return the section headings of a guide's page as a text that follows its title."""
    return f": {'; '.join(guide.sections)}" if guide.sections else ""
