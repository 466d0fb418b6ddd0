"""Writing the book into a folder: one HTML file per page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tinyddpm.files import replacing
from tinyddpm.progress import Watch, unwatched
from tinyddpm.report.book.chapters import CHAPTERS, Figure
from tinyddpm.report.book.guide import TOPICS, Guide, guide_page
from tinyddpm.report.book.library import EQUATIONS, Library, page_of
from tinyddpm.report.book.pages import CONTENTS, NAMES, PARTS, Pages, Seen, chapter_page
from tinyddpm.report.book.parts import sections
from tinyddpm.report.folder import read_picture

Draw = Callable[[Figure, Path], str]
"""Draws a figure into a file. Returns "" if it was drawn, otherwise the reason why not."""


def write_book(out: Path, pictures: Mapping[str, Sequence[Seen]], watch: Watch = unwatched) -> int:
    """Write all pages into a folder and return the number of pages.

    Args:
        out: the folder. Existing pages of the same names are replaced.
        pictures: the pictures of each chapter, by the chapter's slug.
        watch: called after each page.

    Raises:
        ConfigError: markdown-it-py, which parses the guide, is not installed.
        DataError: the folder or a page cannot be written.
    """
    library = Library()
    guides = {topic: Guide(topic, library.writer().link) for topic in TOPICS}
    pages = Pages(library, pictures, guides)
    makers: dict[str, Callable[[], str]] = {
        CONTENTS: pages.contents,
        EQUATIONS: pages.equations,
        PARTS: lambda: pages.parts(sections(library)),
        NAMES: pages.names,
        **{guide_page(topic): partial(pages.guide, topic) for topic in guides},
        **{chapter_page(chapter): partial(pages.chapter, chapter) for chapter in CHAPTERS},
        **{page_of(name): partial(pages.module, module) for name, module in library.modules.items()},
    }
    for done, (name, make) in enumerate(makers.items(), start=1):
        text = make()
        with replacing(out / name) as file:
            file.write(text.encode())
        watch(done, len(makers), "writing pages")
    return len(makers)


def draw_pictures(draw: Draw, folder: Path, watch: Watch = unwatched) -> dict[str, list[Seen]]:
    """Draw the figures of all chapters and return them by the chapter's slug.

    Args:
        draw: draws one figure into a file.
        folder: where the files are written. The pages embed their contents.
        watch: called after each figure.
    """
    wanted = [(chapter, figure) for chapter in CHAPTERS for figure in chapter.figures]
    found: dict[str, list[Seen]] = {chapter.slug: [] for chapter, _ in wanted}
    for done, (chapter, figure) in enumerate(wanted, start=1):
        found[chapter.slug].append(_drawn(draw, figure, folder / f"{chapter.slug}-{figure.name}.png"))
        watch(done, len(wanted), "drawing figures")
    return found


def _drawn(draw: Draw, figure: Figure, path: Path) -> Seen:
    why = draw(figure, path)
    return Seen(figure.caption, why=why) if why else Seen(figure.caption, read_picture(path))
