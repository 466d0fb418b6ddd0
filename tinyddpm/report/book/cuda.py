"""CUDA sources split into rows, as `source.py` splits Python: comments on one side, code on the other."""

from __future__ import annotations

import re
from collections import defaultdict

from tinyddpm.report.book.source import Module, Note, split_rows

SUFFIXES = (".cu", ".cuh")

KEYWORDS = (
    "alignas asm auto bool break case char class const continue default do double else enum extern false float for if "
    "inline int long operator return short signed sizeof static struct switch template true typedef typename union "
    "unsigned using void volatile while __device__ __global__ __shared__"
)
PIECE = re.compile(
    r'(?P<comment>//.*)|(?P<s>"(?:[^"\\]|\\.)*")'
    rf"|(?P<k>^ *#\w+|\b(?:{'|'.join(KEYWORDS.split())})\b)|(?P<n>\b\d[\w.]*(?:(?<=e)-\d+f?)?)"
)
"""A comment, a string, a keyword or directive, or a number. Groups are named after the CSS classes of `source.py`."""

DEFINITION = re.compile(
    r'^(?:template <[^>]*>\s)?(?:extern "C" )?(?:struct (?:alignas\(.+\) )?(?P<type>\w+) \{'
    r"|__(?:global|device)__ [^(]*?(?:__launch_bounds__\(.*?\) )?(?P<function>\w+)\()",
    re.MULTILINE,
)
"""The start of a function or of a struct outside any other."""

FILE = re.compile(r"(?<![`\w/.])[\w/]+\.(?:py|cuh?)\b")


def read_cuda(name: str, source: str) -> Module:
    """Parse a CUDA source. The comment that it begins with is its docstring; one above a definition, that one's.

    A row begins at each definition and at each line with a comment. Of overloads, the first has the name.
    """
    text = source.split("\n")
    comments = {line: found for line, piece in enumerate(text, start=1) if (found := _comment(piece))}
    whole = {line for line, found in comments.items() if not text[line - 1][: found.start()].strip()}
    cut = {line: found.start() for line, found in comments.items() if line not in whole}
    colours = {line: _colours(piece) for line, piece in enumerate(text, start=1)}
    defined: dict[int, str] = {}
    lines: dict[str, int] = {}
    for found in DEFINITION.finditer(source):
        group = str(found.lastgroup)
        line, _ = _place(source, found.start())
        defined[line] = found[group]
        lines.setdefault(found[group], line)
        line, column = _place(source, found.start(group))
        colours[line] = sorted([*colours[line], (column, column + len(found[group]), "d")])
    notes: dict[int, list[Note]] = defaultdict(list)
    docs: dict[str, str] = {}
    for line, found in comments.items():
        if line in cut:
            notes[line].append(Note("comment", _said(found)))
        elif line - 1 not in whole:
            end = next(after for after in range(line, len(text) + 2) if after not in whole)
            said = "\n".join(_said(comments[each]) for each in range(line, end))
            owner = "" if line == 1 else defined.get(end)
            if owner is None:
                notes[line].append(Note("comment", " ".join(said.split())))
            else:
                docs.setdefault(owner, said)
                notes[line].append(Note("doc", said, owner))
    names = {line: [owner] for owner, line in lines.items()}
    return Module(name, docs.get("", ""), split_rows(text, notes, names, whole, cut, colours), lines, docs)


def kernels(module: Module) -> list[str]:
    """Return the names of the kernels of a CUDA source: the functions that Python can launch."""
    code = {line: "".join(text for text, _ in pieces) for row in module.rows for line, pieces in row.code.items()}
    return [name for name, line in module.lines.items() if "__global__" in code[line]]


def _comment(line: str) -> re.Match[str] | None:
    return next((found for found in PIECE.finditer(line) if found["comment"]), None)


def _place(source: str, start: int) -> tuple[int, int]:
    """Return the line, from 1, and the column, from 0, of a position in a text."""
    before = source[:start]
    return before.count("\n") + 1, start - before.rfind("\n") - 1


def _said(comment: re.Match[str]) -> str:
    """Return the text of a comment, with names of files in backticks. Indentation sets formulas apart and is kept."""
    return FILE.sub(r"`\g<0>`", comment[0].lstrip("/").removeprefix(" "))


def _colours(line: str) -> list[tuple[int, int, str]]:
    """Return the coloured spans (start column, end column, CSS class) of a line."""
    found = ((*piece.span(), str(piece.lastgroup)) for piece in PIECE.finditer(line))
    return [(start, end, kind) for start, end, kind in found if kind != "comment"]
