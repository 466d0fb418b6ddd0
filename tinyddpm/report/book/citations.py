"""Citations in docstrings and comments, such as "DDPM eq. 4" or "arXiv 2206.00364, Algorithm 1"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tinyddpm.report.book.source import Module

PAPERS = {
    "DDPM": "2006.11239", "IDDPM": "2102.09672", "DDIM": "2010.02502", "CFG": "2207.12598", "EDM": "2206.00364",
    "EDM2": "2312.02696", "SDEdit": "2108.01073", "RePaint": "2201.09865", "DDNM": "2212.00490",
    "DPM-Solver++": "2211.01095", "UniPC": "2302.04867", "Kingma, Ba": "1412.6980",
}  # fmt: skip
"""arXiv numbers of the papers that docstrings cite by name."""

NAMES = {number: name for name, number in PAPERS.items()}

NAME = "|".join(re.escape(name) for name in sorted(PAPERS, key=len, reverse=True))
NUMBERS = r"\d+(?:(?:, | and | to )\d+)*"
CITATION = re.compile(
    rf"(?P<paper>\b(?:{NAME})(?!\w))|(?:arXiv |\()?\b(?P<arxiv>\d{{4}}\.\d{{5}})\b|(?P<again>ibid\.)"
    rf"|\beqs?\. (?P<equations>{NUMBERS})|\bAlgorithms? (?P<algorithms>{NUMBERS})(?: of (?P<of>{NAME})(?!\w))?"
)


@dataclass(frozen=True)
class Citation:
    """A citation in a text: of a paper, or of its equations or algorithms.

    Attributes:
        start, end: position in the text, as of a slice.
        paper: name of the paper in `PAPERS`, or its arXiv number if it has no name there.
        kind: "eq" or "algorithm"; "paper" for the paper itself.
        numbers: of the equations or algorithms.
    """

    start: int
    end: int
    paper: str
    kind: str
    numbers: tuple[int, ...] = ()


def citations(text: str, paper: str = "") -> Iterator[Citation]:
    """Yield the citations in a text. A number belongs to the paper named last before it; to `paper` if none was."""
    for match in CITATION.finditer(text):
        if match["paper"] or match["arxiv"]:
            paper = match["paper"] or NAMES.get(match["arxiv"], match["arxiv"])
            start = match.start("arxiv") if match["arxiv"] else match.start()
            yield Citation(start, match.end(), paper, "paper")
        elif not match["again"]:
            paper = match["of"] or paper
            kind, found = ("eq", match["equations"]) if match["equations"] else ("algorithm", match["algorithms"])
            yield Citation(match.start(), match.end(), paper, kind, _numbers(found))


def _numbers(text: str) -> tuple[int, ...]:
    ranges = re.findall(r"(\d+)(?: to (\d+))?", text)
    return tuple(number for first, last in ranges for number in range(int(first), int(last or first) + 1))


def paper_of(module: Module) -> str:
    """Return the first paper named in a module's docstring: equations cited without a paper are this paper's."""
    return next((found.paper for found in citations(module.doc) if found.kind == "paper"), "DDPM")


def address(paper: str) -> str:
    """Return the paper's address on arXiv."""
    return f"https://arxiv.org/abs/{PAPERS.get(paper, paper)}"


def cited_by(module: Module) -> dict[tuple[str, str, int], list[int]]:
    """Return the lines where a module cites each equation and algorithm, by (paper, kind, number)."""
    found: dict[tuple[str, str, int], list[int]] = {}
    default = paper_of(module)
    for row in module.rows:
        line = next(iter(row.code), 1)
        for note in row.notes:
            for citation in citations(note.text, default):
                for number in citation.numbers:
                    lines = found.setdefault((citation.paper, citation.kind, number), [])
                    if line not in lines:
                        lines.append(line)
    return found
