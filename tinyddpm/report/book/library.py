"""The modules of the book, read from the installed package, and the address of each documented name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tinyddpm
from tinyddpm.figures.markup import Children, node
from tinyddpm.report.book.chapters import CHAPTERS
from tinyddpm.report.book.citations import address, citations, cited_by, paper_of
from tinyddpm.report.book.cuda import SUFFIXES, kernels, read_cuda
from tinyddpm.report.book.equations import NUMBERED, anchor
from tinyddpm.report.book.prose import Writer, summary
from tinyddpm.report.book.source import Module, read_module

EQUATIONS = "equations.html"
ROOT = Path(tinyddpm.__file__).parent


CUDA, LAUNCHING = "ops.cuda.", ("ops.cuda.", "ops.cupy_operations")
"""The package of the CUDA sources, and the beginnings of the names of modules that launch their kernels."""


def page_of(module: str) -> str:
    """Return the file name of a module's page."""
    return f"{module}.html"


def path_of(module: str) -> Path:
    """Return the file of a module."""
    stem, dot, suffix = module.rpartition(".") if module.endswith(SUFFIXES) else (module, ".", "py")
    return ROOT.joinpath(*stem.split(".")).with_suffix(dot + suffix)


def _family(module: str) -> str:
    """Return the name of a CUDA source as Python has it: of its file, without the suffix."""
    return module.split(".")[-2]


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
        read = read_cuda if name.endswith(SUFFIXES) else read_module
        return read(name, path_of(name).read_text(encoding="utf-8"))

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

    def strings(self, module: Module) -> dict[str, str]:
        """Return the addresses of what string literals of a module name: kernels, their families, and headers."""
        if module.name.endswith(SUFFIXES):
            return {f'"{name.removeprefix(CUDA)}"': page_of(name) for name in self.modules if name.endswith(".cuh")}
        return self._kernels if module.name.startswith(LAUNCHING) else {}

    @cached_property
    def _kernels(self) -> dict[str, str]:
        """The addresses of families of kernels and of kernels, by their names as Python launches them, in quotes."""
        found = {}
        for name, module in self.modules.items():
            if name.endswith(".cu"):
                found[f'"{_family(name)}"'] = page_of(name)
                found |= {f'"{kernel}"': f"{page_of(name)}#{kernel}" for kernel in kernels(module)}
        return found

    def launching(self, module: Module) -> dict[str, str]:
        """Return the addresses of the classes that launch the kernels of a CUDA source, by their names."""
        family = (f'"{_family(module.name)}"', "s")
        launches = (
            (page_of(name), other.within(line).partition("."))
            for name, other in self.modules.items()
            if name.startswith(LAUNCHING) and not name.endswith(SUFFIXES)
            for row in other.rows
            for line, pieces in row.code.items()
            if family in pieces
        )
        return {owner: f"{page}#{owner}" for page, (owner, of_class, _) in launches if of_class}

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
        if module is not None and "/" not in plain and plain.endswith((".py", *SUFFIXES)):  # a file beside this one
            beside = path_of(module.name).with_name(plain)
            return next((page_of(known) for known in self.modules if path_of(known) == beside), None)
        path = plain.removesuffix(".py").replace("/", ".").removeprefix("tinyddpm.")
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
