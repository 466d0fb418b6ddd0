"""A module's source split into rows: docstrings and comments on one side, the code they describe on the other."""

from __future__ import annotations

import ast
import inspect
import io
import keyword
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

PRAGMA = re.compile(r"#\s*(noqa|type:|fmt:|ruff:|pragma)")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Note:
    """A docstring (kind "doc") or comment. `owner` is the qualified name of what a docstring describes, or ""."""

    kind: str
    text: str
    owner: str = ""


@dataclass
class Row:
    """Lines of code and the notes beside them.

    Attributes:
        names: qualified names defined in the first line.
        notes: docstrings and comments about these lines.
        code: by line number, the pieces (text, CSS class) of a line; the class is "" for plain text.
    """

    names: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    code: dict[int, list[tuple[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Module:
    """A parsed module.

    Attributes:
        name: dotted name below `tinyddpm`, such as "diffusion.process".
        doc: docstring of the module.
        rows: the whole source as rows.
        lines: first line of each definition, by qualified name.
        docs: docstrings by qualified name; the module's own is under "".
    """

    name: str
    doc: str
    rows: list[Row]
    lines: dict[str, int]
    docs: dict[str, str]

    def within(self, line: int) -> str:
        """Return the qualified name of the last definition that begins at a line or before it; "" if none does."""
        return max(((first, name) for name, first in self.lines.items() if first <= line), default=(0, ""))[1]


def read_module(name: str, source: str) -> Module:
    """Parse a module. A row begins at each definition and at each line with a docstring or comment."""
    tree = ast.parse(source)
    notes: dict[int, list[Note]] = defaultdict(list)
    names: dict[int, list[str]] = defaultdict(list)
    dropped: set[int] = set()
    docs = {"": inspect.cleandoc(ast.get_docstring(tree) or "")}
    for owner, line, found in _definitions(tree, ""):
        if owner:
            names[line].append(owner)
        if found is not None:
            text = inspect.cleandoc(str(found.value))
            notes[line].append(Note("doc", text, owner))
            if owner:
                docs[owner] = text
            dropped |= set(range(found.lineno, (found.end_lineno or found.lineno) + 1))
    comments, cut = _comments(source)
    for line, (text, whole) in comments.items():
        if whole:
            dropped.add(line)
        if text:
            notes[line].append(Note("comment", text))
    lines = {owner: line for line, owners in names.items() for owner in owners}
    rows = split_rows(source.split("\n"), notes, names, dropped, cut, _colours(source))
    return Module(name, docs[""], rows, lines, docs)


def _definitions(parent: ast.AST, within: str) -> Iterator[tuple[str, int, ast.Constant | None]]:
    """Yield (qualified name, line, docstring or None) of each definition and documented assignment in a body."""
    body: list[ast.stmt] = getattr(parent, "body", [])
    text = _docstring(body[0]) if body else None
    if isinstance(parent, Definition):
        line = min([parent.lineno, *(each.lineno for each in parent.decorator_list)])
        yield within, line, text
    else:
        yield "", 1, text
    prefix = f"{within}." if within else ""
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, Definition):
            yield from _definitions(statement, prefix + statement.name)
        elif after is not None and (said := _docstring(after)):
            name = "" if isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef) else _assigned(statement)
            yield name and prefix + name, statement.lineno, said


def _docstring(statement: ast.stmt) -> ast.Constant | None:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value if isinstance(statement.value.value, str) else None
    return None


def _assigned(statement: ast.stmt) -> str:
    """Return the first name that a statement assigns to; "" if it assigns none."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return ""
    first = targets[0].elts[0] if isinstance(targets[0], ast.Tuple) else targets[0]
    return first.id if isinstance(first, ast.Name) else ""


def _comments(source: str) -> tuple[dict[int, tuple[str, bool]], dict[int, int]]:
    """Return comments as (text, whether it fills the line) by line, and the start columns of those after code.

    Consecutive whole-line comments are joined at the first of them. The text of a pragma for a tool is "".
    """
    found: dict[int, tuple[str, bool]] = {}
    cut: dict[int, int] = {}
    first = before = 0
    for token in _tokens(source):
        if token.type != tokenize.COMMENT:
            continue
        line, column = token.start
        text = "" if PRAGMA.match(token.string) else token.string.lstrip("#").strip()
        if token.line.strip() != token.string.strip():
            found[line], cut[line] = (text, False), column
        elif before == line - 1 and found.get(first, ("", False))[1]:
            found[first], found[line] = (f"{found[first][0]} {text}".strip(), True), ("", True)
            before = line
        else:
            found[line], first, before = (text, True), line, line
    return found, cut


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(source).readline)


def _colours(source: str) -> dict[int, list[tuple[int, int, str]]]:
    """Return the coloured spans (start column, end column, CSS class) of each line."""
    found: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    before = ""
    for token in _tokens(source):
        kind = ""
        if token.type == tokenize.NAME:
            if keyword.iskeyword(token.string):
                kind = "k"
            elif before in ("def", "class"):
                kind = "d"
            before = token.string
        elif token.type == tokenize.STRING or tokenize.tok_name[token.type].startswith("FSTRING"):
            kind = "s"
        elif token.type == tokenize.NUMBER:
            kind = "n"
        elif token.string == "->":
            kind = "whole"  # a browser would break it after its hyphen
        if kind:
            (first, start), (last, end) = token.start, token.end
            for line in range(first, last + 1):
                found[line].append((start if line == first else 0, end if line == last else 10**6, kind))
    return found


def split_rows(
    lines: list[str],
    notes: dict[int, list[Note]],
    names: dict[int, list[str]],
    dropped: set[int],
    cut: dict[int, int],
    colours: dict[int, list[tuple[int, int, str]]],
) -> list[Row]:
    """Split a source into rows.

    Args:
        lines: all lines of the source.
        notes, names: docstrings and comments, and names defined, by line. The notes of line 1 are taken out.
        dropped: lines that are left out, as they are in the notes.
        cut: start columns of the comments after code.
        colours: coloured spans (start column, end column, CSS class) by line.
    """
    rows, waiting = [Row([], notes.pop(1, []))], list[Note]()  # the module's docstring is beside the imports
    for number, text in enumerate(lines, start=1):
        waiting += notes.get(number, [])
        if number in dropped:
            continue
        text = text[: cut.get(number, len(text))].rstrip()
        if not text and waiting:
            continue
        if waiting or names.get(number):
            rows.append(Row(names.get(number, []), waiting))
            waiting = []
        rows[-1].code[number] = _pieces(text, colours.get(number, []))
    rows[-1].notes += waiting
    for row in rows:
        for number in (*row.code, *reversed(row.code)):
            if row.code.get(number) == []:
                edge = number in (next(iter(row.code)), next(reversed(row.code)))
                if edge:
                    del row.code[number]
    return [row for row in rows if row.notes or row.code]


def _pieces(text: str, colours: list[tuple[int, int, str]]) -> list[tuple[str, str]]:
    """Split a line into pieces (text, CSS class) at the coloured spans (start, end, class)."""
    made, place = [], 0
    for start, end, kind in colours:
        if start > place:
            made.append((text[place:start], ""))
        made.append((text[start:end], kind))
        place = max(place, min(end, len(text)))
    if place < len(text):
        made.append((text[place:], ""))
    return [(piece, kind) for piece, kind in made if piece]
