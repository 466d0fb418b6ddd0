"""The modules of the book, read from the installed package, and the address of each documented name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tinyddpm
from tinyddpm.figures.markup import Children, node
from tinyddpm.report.book.chapters import CHAPTERS, CORE
from tinyddpm.report.book.citations import address, citations, cited_by, paper_of
from tinyddpm.report.book.equations import NUMBERED, anchor
from tinyddpm.report.book.prose import Writer, summary
from tinyddpm.report.book.source import Module, read_module

EQUATIONS = "equations.html"
ROOT = Path(tinyddpm.__file__).parent


def page_of(module: str) -> str:
    """Return the file name of a module's page."""
    return f"{module}.html"


def core_modules() -> set[str]:
    """Return the dotted names of all modules in `CORE`, except for `__init__` modules of a docstring alone."""
    paths = (path for room in CORE for path in (ROOT / room).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths if _says(path)}


def _says(path: Path) -> bool:
    return path.name != "__init__.py" or path.read_text(encoding="utf-8").count("\n") > 1


@dataclass(frozen=True)
class Named:
    """An entry of the index: a documented name, its module, its address, and the first sentence of its docstring."""

    name: str
    module: str
    address: str
    about: str


class Library:
    """All modules of the book, in reading order. `modules` has them by dotted name."""

    def __init__(self) -> None:
        self.modules = {name: self._read(name) for chapter in CHAPTERS for name in chapter.modules}

    @staticmethod
    def _read(name: str) -> Module:
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        return read_module(name, path.read_text(encoding="utf-8"))

    @cached_property
    def names(self) -> list[Named]:
        """The public names with docstrings, in alphabetical order."""
        found = [
            Named(name, module.name, f"{page_of(module.name)}#{name}", summary(module.docs.get(name, "")))
            for module in self.modules.values()
            for name in module.lines
            if name in module.docs and not any(part.startswith("_") for part in name.split("."))
        ]
        return sorted(found, key=lambda named: (named.name.lower(), named.module))

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for named in self.names:
            found.setdefault(named.name, []).append(named.address)
        return found

    @cached_property
    def cited(self) -> dict[tuple[str, str, int], list[tuple[str, int]]]:
        """The places (module, line) where each equation and algorithm is cited, by (paper, kind, number)."""
        found: dict[tuple[str, str, int], list[tuple[str, int]]] = {}
        for name, module in self.modules.items():
            for what, lines in cited_by(module).items():
                found.setdefault(what, []).extend((name, line) for line in lines)
        return found

    def writer(self, module: Module | None = None) -> Writer:
        """Return the `Writer` for a module's docstrings; for the book's own texts if `module` is None."""
        paper = paper_of(module) if module else "DDPM"
        return Writer(lambda name: self._link(name, module), lambda text: list(_cited(text, paper)))

    def _link(self, name: str, module: Module | None) -> str | None:
        """Return the address of a name: in the module itself, or in the only other module that documents it."""
        plain = name.strip("()").split("(")[0]
        if module is not None:
            own = [known for known in module.lines if known == plain or known.endswith(f".{plain}")]
            if own and own[0] in module.docs:
                return f"{page_of(module.name)}#{own[0]}"
        path = plain.removesuffix(".py").removeprefix("tinyddpm/").replace("/", ".")
        if path in self.modules:
            return page_of(path)
        places = self._by_name.get(plain, []) if not plain.islower() or "_" in plain else []  # `steps`: an argument
        return places[0] if len(places) == 1 else None


KNOWN = {(each.paper, each.kind, each.number) for each in NUMBERED}


def _cited(text: str, paper: str) -> Iterator[Children]:
    """Yield a text in pieces, its citations as links: equations to the page of equations, papers to arXiv."""
    place = 0
    for found in citations(text, paper):
        target = None
        if found.kind == "paper":
            target = address(found.paper)
        elif (found.paper, found.kind, found.numbers[0]) in KNOWN:
            target = f"{EQUATIONS}#{anchor(found.paper, found.kind, found.numbers[0])}"
        if target:
            yield text[place : found.start]
            yield node("a", {"href": target}, text[found.start : found.end])
            place = found.end
    yield text[place:]
