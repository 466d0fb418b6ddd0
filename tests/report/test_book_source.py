"""The book's reading of the source: every line of code, every word about it, and what stands beside what."""

from __future__ import annotations

import ast
import io
import tokenize

import pytest

from tinyddpm.report.book.citations import citations
from tinyddpm.report.book.cuda import SUFFIXES, kernels, read_cuda
from tinyddpm.report.book.library import ROOT, Library, path_of
from tinyddpm.report.book.prose import Block, Entry, blocks
from tinyddpm.report.book.source import PRAGMA, Module, read_module

pytestmark = pytest.mark.slow


def beside(module: Module) -> tuple[dict[int, str], list[str]]:
    """The code of a module's rows by line, and what is said beside it."""
    code = {line: "".join(text for text, _ in pieces) for row in module.rows for line, pieces in row.code.items()}
    return code, [note.text for row in module.rows for note in row.notes]


def test_rows_have_every_line_of_code_and_every_word_about_it(library: Library) -> None:
    """What is not beside the code is in it: lines are those of the source, but for docstrings, comments and pragmas."""
    for name, module in library.modules.items():
        if name.endswith(SUFFIXES):
            continue
        source = path_of(name).read_text(encoding="utf-8")
        code, said = beside(module)
        found = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = dict(token.start for token in found if token.type == tokenize.COMMENT)
        strings = {
            line: node.value.value
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        for number, line in enumerate(source.split("\n"), start=1):
            if number in strings:
                assert number not in code, (name, number)
                continue
            kept, rest = line[: comments.get(number)], line[comments[number] :] if number in comments else ""
            assert code.get(number, "") == kept.rstrip(), (name, number)
            if rest and not PRAGMA.match(rest):
                assert any(rest.lstrip("#").strip() in text for text in said), (name, number, rest)
        words = " ".join(" ".join(text.split()) for text in said)
        assert all(" ".join(text.split()) in words for text in set(strings.values())), name


def test_cuda_sources_are_there_line_by_line_too(library: Library) -> None:
    sources = {name: module for name, module in library.modules.items() if name.endswith(SUFFIXES)}
    assert len(sources) == len([*(ROOT / "ops" / "cuda").glob("*.cu*")])
    for name, module in sources.items():
        code, said = beside(module)
        words = " ".join(" ".join(said).replace("`", "").split())
        for number, line in enumerate(path_of(name).read_text(encoding="utf-8").split("\n"), start=1):
            kept, comment, rest = line.partition("//")
            assert code.get(number, "") == kept.rstrip(), (name, number)
            assert not comment or " ".join(rest.replace("`", "").split()) in words, (name, number)


def test_comments_of_a_cuda_source_stand_beside_what_they_are_of() -> None:
    """Those above a definition are its docstring, formulas and paragraphs kept; overloads share a name, and a page's
    anchors are unique, so the first has it."""
    source = (
        "// About x.py.\n//\n//     a = b\n#include <y>\n\n// Of\n// f.\ntemplate <int n>\n__device__ int f(int a) {\n"
    )
    source += (
        '    // inside,\n    // twice\n    return "//"[a];  // so\n}\n__device__ int f(float a);\n\n// A kernel.\n'
    )
    source += 'extern "C" __global__ void __launch_bounds__(4, 2) g(\n'
    found = read_cuda("m.cu", source)
    rows = [(row.names, [note.text for note in row.notes], [*row.code]) for row in found.rows]
    assert rows == [
        ([], ["About `x.py`.\n\n    a = b"], [4]), (["f"], ["Of\nf."], [8, 9]),
        ([], ["inside, twice", "so"], [12, 13, 14]), (["g"], ["A kernel."], [17]),
    ]  # fmt: skip
    assert found.docs == {"": "About `x.py`.\n\n    a = b", "f": "Of\nf.", "g": "A kernel."}
    assert (found.lines, kernels(found)) == ({"f": 8, "g": 17}, ["g"])
    assert [*found.rows[1].code[9]] == [
        ("__device__", "k"), (" ", ""), ("int", "k"), (" ", ""), ("f", "d"), ("(", ""), ("int", "k"), (" a) {", ""),
    ]  # fmt: skip


def test_prose_stands_beside_what_it_is_of() -> None:
    source = '"""About."""\n\nA = 1\n"""One."""\n\n\n# why\ndef f(x):\n    """Do."""\n    y = x  # so\n'
    source += "    return y  # noqa: X\n"
    rows = read_module("m", source).rows
    found = [([note.text for note in row.notes], [*row.code]) for row in rows]
    assert found == [(["About."], []), (["One."], [3]), (["why", "Do."], [8]), (["so"], [10, 11])]


def test_lines_between_a_comment_and_its_code_are_left_out() -> None:
    """And a string below a statement that names nothing describes that statement."""
    found = read_module("m", '"""About."""\nf()\n"""Said."""\n# of g\n\ndef g(): pass\n')
    rows = [([note.text for note in row.notes], [*row.code]) for row in found.rows]
    assert rows == [(["About."], []), (["Said."], [2]), (["of g"], [6])]
    assert found.docs == {"": "About."}


def test_docstrings_are_split_into_blocks() -> None:
    """Formulas and lists may stand directly below a sentence, and entries below an empty line."""
    text = "With\n    a = b\nfor x,\n    c = d\n\n    e = f\nat last\n\n- one\n  more\n- two\n\n"
    text += "Args:\n    x: of\n        two lines\n\n    y: last"
    assert blocks(text) == [
        Block("paragraph", ("With",)), Block("indented", ("    a = b",)), Block("paragraph", ("for x,",)),
        Block("indented", ("    c = d",)), Block("indented", ("    e = f",)),
        Block("paragraph", ("at last",)), Block("list", ("one more", "two")),
        Block("Args", entries=(Entry("x", "of two lines"), Entry("y", "last"))),
    ]  # fmt: skip


def test_citations_may_have_several_numbers() -> None:
    text = "DDPM, eqs. 5 to 7 and 9, by Algorithm 1 of EDM"
    assert [(each.paper, each.kind, each.numbers) for each in citations(text)] == [
        ("DDPM", "paper", ()), ("DDPM", "eq", (5, 6, 7, 9)), ("EDM", "algorithm", (1,)),
    ]  # fmt: skip
