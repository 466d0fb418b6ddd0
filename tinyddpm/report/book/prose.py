"""Docstrings and comments as HTML: paragraphs, formulas, lists, and sections such as Args and Returns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from tinyddpm.figures.markup import LONGEST, Children, Element, node
from tinyddpm.report.book.notation import (
    BINARY,
    FUNCTIONS,
    GREEK,
    RELATIONS,
    WORDS,
    NotationError,
    Token,
    is_formula,
    is_symbol,
    math,
    relates,
    tokens,
)

SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes):$")
TITLES = {"Args": "Takes"}
ENTRY = re.compile(r"(\*{0,2}\w[\w, ]*): +(\S.*)")
BULLET = "- "

MOST_WORDS = 40
"""Most words of a formula within a sentence: bounds the search for its end."""

Link = Callable[[str], str | None]
"""Maps a name in backticks to its address; to None if no page has it."""

Cited = Callable[[str], list[Children]]
"""Splits a text at its citations: returns links as elements, the rest as texts that may still contain formulas."""


@dataclass(frozen=True)
class Entry:
    """One entry of a section: a name, "" if it has none, and its description."""

    name: str
    text: str


@dataclass(frozen=True)
class Block:
    """A block of a docstring.

    Attributes:
        kind: "paragraph", "indented", "list", or the name of a section.
        lines: the lines of an indented block, the items of a list, or the one text of a paragraph.
        entries: the entries of a section.
    """

    kind: str
    lines: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()


def blocks(text: str) -> list[Block]:
    """Split a docstring into blocks. `text` is as `inspect.cleandoc` returns it."""
    found = []
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        lines = part.split("\n")
        if heading := SECTION.match(lines[0]):
            found.append(_section(heading[1], lines[1:]))
        elif all(line.startswith("    ") for line in lines):
            if found and found[-1].kind in ("Args", "Returns", "Yields", "Attributes"):
                found[-1] = _section(found[-1].kind, [*_lines_of(found[-1]), *lines])
            else:
                found.append(Block("indented", tuple(line.rstrip() for line in lines)))
        elif lines[0].lstrip().startswith(BULLET):
            found.append(Block("list", tuple(_items(lines))))
        else:
            found += _broken(lines)
    return found


def summary(text: str) -> str:
    """Return the first sentence of a docstring; its first paragraph if that has no full stop."""
    first = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[^.][.!]) (?=[A-Z])", first)[0]


def _broken(lines: Sequence[str]) -> Iterator[Block]:
    """Split a paragraph at indented lines: yield paragraphs and indented blocks in turn."""
    kept: list[str] = []
    indented: list[str] = []
    for line in [*lines, ""]:
        if line.startswith("    "):
            indented.append(line)
            continue
        if indented:
            if kept:
                yield Block("paragraph", (" ".join(kept),))
            yield Block("indented", tuple(indented))
            kept, indented = [], []
        kept += [line.strip()] if line.strip() else []
    if kept:
        yield Block("paragraph", (" ".join(kept),))


def _items(lines: Sequence[str]) -> list[str]:
    items: list[str] = []
    for line in map(str.strip, lines):
        if line.startswith(BULLET):
            items.append(line.removeprefix(BULLET))
        else:
            items[-1] += f" {line}"
    return items


def _section(kind: str, lines: Sequence[str]) -> Block:
    """Parse the lines below a section's heading into entries; text before the first name has the name ""."""
    entries: list[Entry] = []
    for line in lines:
        entry = ENTRY.match(line.strip())
        if entry and not line.startswith("     "):
            entries.append(Entry(entry[1], entry[2]))
        elif entries:
            entries[-1] = Entry(entries[-1].name, f"{entries[-1].text} {line.strip()}")
        else:
            entries.append(Entry("", line.strip()))
    return Block(kind, entries=tuple(entries))


def _lines_of(section: Block) -> list[str]:
    return [f"    {entry.name}: {entry.text}" if entry.name else f"    {entry.text}" for entry in section.entries]


@dataclass(frozen=True)
class Writer:
    """Converter from docstrings to HTML.

    Attributes:
        link: returns the address of a name in backticks.
        cited: replaces citations by links.
    """

    link: Link
    cited: Cited

    def document(self, text: str) -> list[Element]:
        """Return a docstring as elements, one or two per block."""
        return [element for block in blocks(text) for element in self._block(block)]

    def _block(self, block: Block) -> Iterator[Element]:
        if block.kind == "paragraph":
            yield node("p", {}, self.sentence(block.lines[0]))
        elif block.kind == "list":
            yield node("ul", {}, (node("li", {}, self.sentence(item)) for item in block.lines))
        elif block.kind == "indented":
            yield self._indented(block.lines)
        else:
            yield node("h4", {}, TITLES.get(block.kind, block.kind))
            rows = (
                node("div", {}, node("dt", {}, node("code", {}, entry.name)), node("dd", {}, self.sentence(entry.text)))
                if entry.name
                else node("div", {"class": "alone"}, node("dd", {}, self.sentence(entry.text)))
                for entry in block.entries
            )
            yield node("dl", {}, rows)

    def _indented(self, lines: Sequence[str]) -> Element:
        """Return an indented block: as formulas if every line has one and no code, otherwise preformatted."""
        pieces = [re.split(r" {2,}", line.strip()) for line in lines]
        if not all(any(is_formula(piece) for piece in line) and _all_of_notation(line) for line in pieces):
            return node("pre", {"class": "text"}, _chunks("\n".join(line.removeprefix("    ") for line in lines)))
        rows = (node("div", {"class": "line"}, map(self._piece, line)) for line in pieces)
        return node("div", {"class": "equation"}, rows)

    def _piece(self, text: str) -> Element:
        """Return a piece of a line of formulas: a formula, or words between formulas."""
        if is_formula(text) and _is_mathematics(text):
            return math(text, display=True)
        return node("span", {}, self.sentence(text))

    def sentence(self, text: str) -> list[Children]:
        """Return a text with names in backticks as code, citations as links, and formulas as MathML."""
        made: list[Children] = []
        for i, part in enumerate(text.split("`")):
            if i % 2:
                code, target = node("code", {}, part), self.link(part)
                made.append(node("a", {"href": target}, code) if target else code)
            else:
                for piece in self.cited(part):
                    made += formulas(piece) if isinstance(piece, str) else [piece]
        return made


def _all_of_notation(line: Sequence[str]) -> bool:
    """Whether no piece of a line has a sign of code."""
    return not any(sign in piece for piece in line for sign in ('"', "@", "()", "_("))


def _is_mathematics(text: str) -> bool:
    """Whether to typeset a formula: it has a relation, or all its names are symbols."""
    return relates(text) or all(is_symbol(token.text) for token in tokens(text) if token.kind == "name")


UNITS = frozenset("MB")
"""Capitals that after a number count millions and billions, as in 35.7 M."""


def formulas(text: str) -> list[Children]:
    """Return a text with the formulas in it as MathML. From each word the longest formula is taken."""
    made: list[Children] = []
    plain, parts = "", re.split(r"( +)", text)
    place = 0
    while place < len(parts):
        found = _formula(parts, place) if parts[place].strip() else None
        if found is None or (found[1] in UNITS and plain[-2:-1].isdigit()) or plain.endswith("appendix "):
            plain += parts[place]
            place += 1
            continue
        before, formula, after, place = found
        stops = len(after) - len(after.lstrip(".,;:)"))
        made += [*_chunks(plain), node("span", {"class": "whole"}, before, math(formula), after[:stops])]
        plain = after[stops:]
    return [*made, *_chunks(plain)]


def _formula(parts: Sequence[str], start: int) -> tuple[str, str, str, int] | None:
    """Return the longest formula that starts at the word with index `start`, if there is one.

    It is returned as (text before it in its first word, formula, text after it in its last word, next index).
    """
    end = start
    while end < min(len(parts), start + 2 * MOST_WORDS) and (not parts[end].strip() or _may_be(parts, end)):
        end += 1
    for stop in range(end, start, -1):
        run = "".join(parts[start:stop])
        for before, close in product(("", "("), ("", ")", "'s")):
            inner = run.removeprefix(before).rstrip(".,;:").removesuffix(close).rstrip(".,;:")
            after = run[len(before) + len(inner) :]
            if run.startswith(before) and close in after and _stands(inner, after[:1] in tuple(".,;:)")):
                return before, inner, after, stop
    return None


AFTER, BEFORE = "=≈~∝≤≥<>+·*×/,:;→←)", "=≈~+−·*×/-"
"""Signs with which no formula in a sentence begins, and signs with which none ends."""

SHAPE = re.compile(r"\((?=[^)]*[A-Z])(?=[^)]*,)(?:\d*[A-Z]|\d+)(?:, (?:\d*[A-Z]|\d+))*,?\)")
"""An array's shape, such as (N, 3) or (T,)."""

MAY_BE = re.compile(r"[\w\u0302-\u0304=≈~∝≤≥<>≠∈←→⇒+−\-±∓·×⊗⊙^*'/,;:|‖….()\[\]{}√∂∇∞½¼ΣΠ∑∫²³⁻⁰¹⁴ᵀᵏ⁺]+")

OPERATORS = frozenset("=≈∝≤≥<+−-·*/←")
"""Signs that prose does not have between spaces: what stands beside one is a variable, whatever its name."""

PROSE = frozenset({"the", "a", "an", "its", "their", "all", "what", "one", "each", "no"})
"""Words of prose that stand beside a sign, as in "x = the sum"."""

OPENED = Token("sign", "(")

RATIO = re.compile(r"\d+/[A-Za-z]\w*|[A-Za-z]\w*/\d+|d\w+/d\w+|[A-Za-z]'?\([A-Za-z]\)|N\(0, I\)")
"""A quotient of a name and a number, a derivative such as dz/dt, a function of one letter, such as P(x), or N(0, I)."""


def _may_be(parts: Sequence[str], place: int) -> bool:
    """Whether a word can be part of a formula: its names are symbols or have scripts, or it is beside an operator."""
    word = parts[place]
    if not MAY_BE.fullmatch(word):
        return False
    try:
        found = tokens(word.strip(".,;:").strip("()"))
    except NotationError:
        return False
    names = {i for i, token in enumerate(found) if token.kind == "name"}
    known = {i for i in names if is_symbol(found[i].text) or found[i].text in WORDS or _has_script(found, i)}
    known |= {i for i in names if "·" in [token.text for token in found[max(i - 1, 0) : i + 2]]}
    if RATIO.fullmatch(word.strip(".,;:()")):
        known = names
    if word.strip("().,;:") not in PROSE:
        known |= {min(names)} if names and place > 1 and parts[place - 2] in OPERATORS else set()
        if names and not OPERATORS.isdisjoint(parts[place + 2 : place + 3]):
            known |= {max(names)}  # and functions whose argument goes on, as of "clip(x + s)"
            known |= {i for i in names if word.count("(") > word.count(")") and found[i + 1 : i + 2] == [OPENED]}
    return known == names


def _has_script(found: Sequence[Token], place: int) -> bool:
    """Whether the name at an index has a subscript or an exponent, or is a subscript."""
    after = found[place + 1].kind if place + 1 < len(found) else ""
    return after in ("sub", "raised") or (place > 0 and found[place - 1].kind == "sub")


def _is_one(text: str) -> bool:
    """Whether a text can be one formula: brackets balance, no possessive, no list unless it contains …."""
    depth = 0
    for sign, after in zip(text, [*text[1:], ""], strict=True):
        depth += (sign in "([{") - (sign in ")]}")
        listed = sign in ",;:" and depth == 0 and "…" not in text
        if depth < 0 or listed or sign + after in ("'s", ",)", ".."):
            return False
    return depth == 0 or "[" in text


def _stands(text: str, ends: bool) -> bool:
    """Whether a piece of a sentence is certainly a formula or a shape, not a word.

    `ends` says that punctuation follows, before which a last word "a" is no article.
    """
    if SHAPE.fullmatch(text):
        return True
    if not text or text != text.strip() or not _is_one(text) or text[0] in AFTER or text[-1] in BEFORE:
        return False
    try:
        found = tokens(text)
        math(text)
    except NotationError:
        return False
    names = [token.text for token in found if token.kind == "name"]
    if {token.kind for token in found} == {"name", "sub"} and (names[0] in FUNCTIONS or not is_symbol(names[0])):
        return False  # a name of the code, such as max_beta
    if not names:
        return any(_tells(token, len(found)) for token in found)
    if len(found) == 1 and names[0].isascii() and names[0] not in GREEK:
        return len(names[0]) == 1 and names[0] not in "aAI"
    words = text.split(" ")
    if len(words) > 1 and not _beside_sign(words, ends):
        return False
    combined = len(words) > 1 and any(token.text in BINARY or token.text == "/" for token in found)
    combined |= "·" in text or RATIO.fullmatch(text) is not None
    if not combined and not any(_tells(token, len(found)) for token in found):
        return False
    return all(_beside(found, i) for i, token in enumerate(found) if token.kind == "name" and _is_word(found, i))


def _is_word(found: Sequence[Token], place: int) -> bool:
    """Whether the name at an index may be a word of prose."""
    name = found[place].text
    return name in WORDS or not (is_symbol(name) or _has_script(found, place))


def _tells(token: Token, of: int) -> bool:
    """Whether a token proves that its text is a formula. `of` is the number of tokens in the text."""
    if token.kind == "name":
        return not token.text.isascii() or token.text in GREEK or (token.text in FUNCTIONS and of > 1)
    return token.kind in ("sub", "raised") or token.text in RELATIONS or token.text in "^√∂Σ∫‖"


def _beside_sign(words: Sequence[str], ends: bool) -> bool:
    """Whether a first or last word that may be an article (a, A, I) is beside a sign, as in a = b, or before a stop."""
    first, second, *_ = words
    *_, before, last = words
    signs = RELATIONS | BINARY
    return (first not in ("a", "A", "I") or second in signs) and (ends or last not in ("a", "A") or before in signs)


def _beside(found: Sequence[Token], place: int) -> bool:
    """Whether the token at an index has an operator, a bracket or a separator beside it, spaces aside."""
    near = [token for token in found[:place] if token.kind != "space"][-1:]
    near += [token for token in found[place + 1 :] if token.kind != "space"][:1]
    return any(token.text in RELATIONS | BINARY | set("()/_,") for token in near)


def _chunks(text: str) -> list[Children]:
    """Split a text into pieces of at most `LONGEST` letters, beyond which `node` cuts a text."""
    return [text[i : i + LONGEST] for i in range(0, len(text), LONGEST)]
