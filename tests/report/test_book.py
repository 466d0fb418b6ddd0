"""The book: its links lead somewhere, its equations are cited, and a browser shows it well."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from click.testing import CliRunner, Result

import tinyddpm
from helpers.command_line import fails
from helpers.pages import CHROMIUM, Tree, browsed, seen
from tinyddpm import registry
from tinyddpm.cli import main
from tinyddpm.cli.book import _Drawer
from tinyddpm.errors import RegistryError
from tinyddpm.figures.markup import node, written
from tinyddpm.ops.cuda.kernels import FAMILIES
from tinyddpm.report.book.chapters import CHAPTERS, Figure
from tinyddpm.report.book.citations import cited_by
from tinyddpm.report.book.cuda import SUFFIXES, kernels
from tinyddpm.report.book.equations import NUMBERED
from tinyddpm.report.book.guide import Guide
from tinyddpm.report.book.library import ROOT, Library, path_of
from tinyddpm.report.book.pages import Pages
from tinyddpm.report.book.parts import _part

pytestmark = pytest.mark.slow

CORE = (
    "backend", "ops", "nn", "conditions", "diffusion", "samplers", "guidance", "editing", "transforms", "model",
    "training",
)  # fmt: skip
"""Packages of which every module belongs to a chapter, but for an `__init__` of a docstring alone."""

FIVE = ("DDPM", "IDDPM", "DDIM", "CFG", "EDM")


def book(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["book", *arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("book") / "site"
    assert book("--no-figures", "--out", str(folder)).exit_code == 0
    return folder


@pytest.fixture
def without_modules(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules' pages, which take most of the time, stay empty."""
    monkeypatch.setattr("tinyddpm.report.book.build.Library", lambda: library)
    monkeypatch.setattr(Pages, "module", lambda *_: "")


def test_every_module_of_the_core_is_in_one_chapter() -> None:
    """A new module belongs into a chapter of `tinyddpm/report/book/chapters.py`."""
    found = Counter(module for chapter in CHAPTERS for module in chapter.modules)
    paths = [path for room in CORE for path in (ROOT / room).rglob("*.*") if path.suffix in (".py", *SUFFIXES)]
    told = [path for path in paths if path.name != "__init__.py" or len(path.read_text("utf-8").splitlines()) > 1]
    assert set(found) == {".".join(path.relative_to(ROOT).parts).removesuffix(".py") for path in told}
    assert max(found.values()) == 1


def test_kernels_and_what_launches_them_lead_to_each_other(library: Library) -> None:
    pages = Pages(library, {}, {})
    seen = {name: pages.module(module) for name, module in library.modules.items() if name.startswith("ops.cu")}
    literal = re.compile(r'"(\w+)"')
    for family in FAMILIES:
        cuda = library.modules[f"ops.cuda.{family}.cu"]
        classes = library.launching(cuda)
        assert classes, family
        for address in classes.values():
            module = address.partition(".html")[0]
            assert f'href="{address}"' in seen[cuda.name]
            assert f'href="{cuda.name}.html"' in seen[module]
            for named in set(literal.findall(path_of(module).read_text())) & set(kernels(cuda)):
                assert f'<a href="{cuda.name}.html#{named}" class="s">"{named}"</a>' in seen[module]
    assert '<a href="ops.cuda.common.cuh.html" class="s">"common.cuh"</a>' in seen["ops.cuda.product.cuh"]
    assert 'href="ops.cuda.activation.cu.html"><code>activation.cu</code>' in seen["ops.cuda.activations"]


def test_names_lead_to_what_they_name(library: Library) -> None:
    """In their own module, in the only other that has them, or to a module by its file; arguments lead nowhere."""
    process = library.modules["diffusion.process"]
    links = {
        "q_sample": "diffusion.process.html#GaussianProcess.q_sample", "cosine()": None,
        "GaussianProcess": "diffusion.process.html#GaussianProcess", "tinyddpm/ops/loss.py": "ops.loss.html",
        "tinyddpm.ops.loss": "ops.loss.html", "steps": None,
    }  # fmt: skip
    assert {name: library.writer(process).link(name) for name in links} == links


def test_a_guide_is_made_of_what_it_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of files that are no page of the guide are left out: an installed package lacks them."""
    monkeypatch.setattr("tinyddpm.report.book.guide.files", lambda package: tmp_path)
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / "x.md").write_text("# X\n\n[code](../x.py) and [more](y.md) of `f.py`, `g`\n")
    guide = Guide("x", {"f.py": "f.html"}.get)
    assert guide.title == "X"
    links = '<a href="guide-y.html">more</a> of <a href="f.html"><code>f.py</code></a>, <code>g</code>'
    assert written(node("main", {}, guide.body)) == f"<main><p>code and {links}</p></main>"
    (tmp_path / "guide" / "x.md").write_text("# X\n\n---\n")
    with pytest.raises(ValueError, match="the guide has a hr, for which there is no element"):
        Guide("x", lambda name: None)


def test_the_guide_has_its_pictures_beside_it(site: Path) -> None:
    """So an installed package has them too."""
    folder = ROOT / "report" / "book" / "guide"
    shown = Counter[str]()
    for path in folder.glob("*.md"):
        pictures = re.findall(r"!\[([^]]+)\]\(pictures/[\w-]+\.png\)", text := path.read_text(encoding="utf-8"))
        assert len(pictures) == text.count("![")
        shown.update(re.findall(r"pictures/([\w-]+\.png)", text))
        page = Tree((site / f"guide-{path.stem}.html").read_text(encoding="utf-8"))
        assert [image["alt"] for image in page.of("img")] == pictures
    assert {path.name for path in (folder / "pictures").iterdir()} == set(shown)


def test_a_part_that_cannot_be_loaded_says_why(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(group: str, name: str) -> None:
        raise RegistryError(f"{name} is <broken>")

    entry = registry.entries("samplers")[0]
    monkeypatch.setattr(registry, "load", load)
    article = written(_part(library, entry))
    assert f"</a>: {entry.name} is &lt;broken&gt;</p></article>" in article


def test_equations_are_numbered_without_gaps_and_each_has_one_answer() -> None:
    numbers: dict[tuple[str, str], list[int]] = {}
    for each in NUMBERED:
        numbers.setdefault((each.paper, each.kind), []).append(each.number)
        assert sum(map(bool, (each.where, each.same, each.why))) == 1, each
    assert {paper for paper, _ in numbers} == set(FIVE)
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


def test_what_implements_an_equation_cites_it_and_what_is_cited_is_in_the_table(library: Library) -> None:
    implemented = {(each.paper, each.kind, each.number): each.where for each in NUMBERED if each.where}
    for what, where in implemented.items():
        module, _, name = where.partition(":")
        lines = cited_by(library.modules[module])[what]
        assert library.modules[module].lines[name] in lines, (what, where, lines)
    cited = {what for what in library.cited if what[0] in FIVE}
    assert cited == set(implemented)
    for each in NUMBERED:
        if each.same:
            paper, number = each.same
            assert (paper, "eq", number) in implemented, each


def test_without_markdown_it_is_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyddpm.report.book.guide.find_spec", lambda name: None)
    monkeypatch.setattr("tinyddpm.report.book.build.draw_pictures", lambda *_: pytest.fail("it draws"))
    assert "run pip install 'tinyddpm[book]'" in fails("book", "--out", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_run_is_refused_where_figures_are_left_out(tmp_path: Path) -> None:
    refused = fails("book", "--run", "runs/mine", "--no-figures", "--out", tmp_path / "site")
    assert refused.endswith("--run runs/mine is for figures, and --no-figures leaves them out: give one of the two")


def test_a_reason_not_to_draw_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    draw = _Drawer(None)
    figures = [Figure((name,), "Chains.") for name in ("kernel", "diffused")]
    first, second = (draw(figure, tmp_path / "x.png") for figure in figures)
    assert first == second
    assert capsys.readouterr().err.count("note: figures are left out") == 1


def test_links_lead_to_what_is_there_and_nothing_is_loaded(site: Path) -> None:
    pages = {path.name: Tree(path.read_text(encoding="utf-8")) for path in site.iterdir()}
    anchors = {}
    for name, tree in pages.items():
        ids = [value for _, attributes in tree.tags if (value := attributes.get("id"))]
        assert len(ids) == len(set(ids)), (name, [x for x, n in Counter(ids).items() if n > 1])
        anchors[name] = set(ids)
    for name, tree in pages.items():
        assert not tree.of("script") or all("src" not in attributes for attributes in tree.of("script"))
        assert [link["href"] for link in tree.of("link")] == ["data:,"]
        assert all(str(image["src"]).startswith("data:") for image in tree.of("img"))
        for link in tree.of("a"):
            href = str(link["href"])
            if not re.fullmatch(r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|github\.com/\S+)", href):
                page, _, anchor = href.partition("#")
                assert (page or name) in pages, (name, href)
                assert not anchor or unquote(anchor) in anchors[page or name], (name, href)
    entries = json.loads(pages["index.html"].inside("script")[0])
    for _, address, about in entries:
        page, _, anchor = address.partition("#")
        assert "`" not in about
        assert not anchor or anchor in anchors[page], address
    texts = [path.read_text(encoding="utf-8") for path in site.iterdir()]
    assert all("more letters)" not in text and not re.search(r"<a [^>]*>((?!</a>).)*<a ", text) for text in texts)


def test_modules_of_a_folder_are_listed_below_the_module_that_they_are_parts_of(library: Library) -> None:
    (kernels,) = (chapter for chapter in CHAPTERS if chapter.slug == "kernels")
    found = [[a.get("href", "") for a in item.iter("a")] for item in Pages(library, {}, {})._modules(kernels)]
    named = ["ops.numpy_operations", "ops.numba_operations", "ops.torch_operations", "ops.cupy_operations"]
    assert [links[0] for links in found] == [f"{name}.html" for name in named]
    folders = [
        {link.split(".")[1] for link in links[1:] if re.match(r"ops\.(cpu|numba|cuda)\.", link)} for links in found
    ]
    assert folders == [{"cpu"}, {"numba"}, set(), {"cuda"}]


def test_every_page_is_reached_from_the_first(site: Path) -> None:
    reached, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            links = Tree((site / name).read_text(encoding="utf-8")).of("a")
            waiting += [page for link in links if (page := str(link["href"]).partition("#")[0]).endswith(".html")]
    assert reached == {path.name for path in site.iterdir()}


def test_parts_have_all_their_options_with_defaults(site: Path) -> None:
    tree = Tree((site / "parts.html").read_text(encoding="utf-8"))
    ids = [attributes.get("id") for attributes in tree.of("article")]
    entries = [entry for group in registry.GROUPS if group != "commands" for entry in registry.entries(group)]
    assert ids == [f"{entry.group}-{entry.name}" for entry in entries]
    codes = tree.inside("code")
    for entry in entries:
        if entry.distribution == "tinyddpm":
            module, _, name = entry.value.partition(":")
            for option, parameter in registry.options(getattr(importlib.import_module(module), name)).items():
                assert option in codes
                assert repr(parameter.default) in codes


@pytest.mark.usefixtures("without_modules")
def test_what_cannot_be_drawn_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chapter has its figures if they can be drawn, those of a run with one; else a line says what is lacking."""
    few = tuple(chapter for chapter in CHAPTERS if chapter.slug in ("simple", "samplers", "kernel"))
    short = {
        "kernel": (Figure(("kernel", "--timesteps", "50", "--count", "50"), "Chains."),),
        "samplers": (Figure(("steps",), "Steps.", of_run=True),),
    }
    for chapter in few:
        monkeypatch.setitem(vars(chapter), "figures", short.get(chapter.slug, ()))
    for chapter in CHAPTERS:
        if chapter not in few:
            monkeypatch.setitem(vars(chapter), "figures", ())
    pytest.importorskip("matplotlib")
    assert book("--out", str(tmp_path / "a")).exit_code == 0
    kernel, samplers = (Tree((tmp_path / "a" / f"chapter-{name}.html").read_text()) for name in ("kernel", "samplers"))
    assert [image["alt"] for image in kernel.of("img")] == ["Chains."]
    assert not samplers.of("img")
    assert any("tinyddpm book --run RUN" in text for text in samplers.inside("p"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = book("--out", str(tmp_path / "b"))
    assert done.exit_code == 0
    assert (
        "note: figures are left out: drawing figures needs matplotlib: pip install 'tinyddpm[figures]'" in done.stderr
    )
    assert not Tree((tmp_path / "b" / "chapter-kernel.html").read_text()).of("img")
    refused = book("--run", "nowhere", "--out", str(tmp_path / "c"))
    assert refused.exit_code == 1
    assert "needs matplotlib" in refused.stderr


@pytest.mark.usefixtures("without_modules")
def test_figures_of_a_run_are_drawn_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the run cannot show is said, and the rest is there; a run that is none ends it before anything is drawn."""
    pytest.importorskip("matplotlib")
    images = np.zeros((20, 8, 8, 1), np.uint8)
    network = {"channels": 8, "multipliers": [1], "attention": []}
    tinyddpm.train(images, out=tmp_path / "run", steps=1, timesteps=5, batch_size=4, network=network, progress=False)
    wanted = (
        Figure(("denoising", "--count", "1", "--columns", "3"), "On its way.", of_run=True),
        Figure(("guidance", "--count", "1"), "Guided.", of_run=True),
    )
    for chapter in CHAPTERS:
        monkeypatch.setitem(vars(chapter), "figures", wanted if chapter.slug == "samplers" else ())
    done = book("--run", str(tmp_path / "run"), "--out", str(tmp_path / "site"))
    assert done.exit_code == 0, done.output
    chapter = Tree((tmp_path / "site" / "chapter-samplers.html").read_text())
    assert [image["alt"] for image in chapter.of("img")] == ["On its way."]
    (note,) = [line for line in done.stderr.split("\n") if line.startswith("note: ")]
    reason = note.removeprefix("note: figures are left out: ")
    assert f"Guided. It is left out: {reason}." in chapter.inside("p")
    refused = book("--run", str(tmp_path / "none"), "--out", str(tmp_path / "other"))
    assert refused.exit_code == 1
    assert not (tmp_path / "other").exists()


LOOK = Path(__file__).with_name("book_look.js")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_it(dark: bool, site: Path, tmp_path: Path) -> None:
    """Nothing is wider than a phone; on a desktop prose stands beside code, all of both is seen; the search finds."""
    names = (
        "index.html",
        "chapter-kernel.html",
        "diffusion.process.html",
        "ops.loss.html",
        "ops.cuda.group_norm.cu.html",
        "equations.html",
        "parts.html",
        "names.html",
    )
    found = seen([(site / name).read_text(encoding="utf-8") for name in names], LOOK, tmp_path, dark)
    for place, frame in enumerate(found):
        name, width = names[place // 2], (390, 1280)[place % 2]
        assert frame["width"] == width
        assert frame["overflow"] == 0, name
        assert frame["dark"] is dark
        assert all(height > 0 for height in frame["formulas"])
        rows, beside = frame["beside"]
        assert (rows > 0) == name.startswith(("diffusion", "ops"))
        assert beside == (rows if width == 1280 else 0)
        assert width == 390 or not frame["cut"], name
        assert frame["contrast"] >= 4.5, (name, frame["faintest"])
        if name == "index.html":
            process = "diffusion.process.html#GaussianProcess.q_sample"
            twelve = "equations.html#ddim-eq-12"
            assert frame["found"] == [process, f"opened {twelve}", twelve, "Nothing has these words."]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_no_script_fails_on_any_page(site: Path, tmp_path: Path) -> None:
    """A browser has nothing to complain of, policies included, however many pages it opens."""
    frames = "".join(f'<iframe src="{path.as_uri()}"></iframe>' for path in sorted(site.iterdir()))
    script = "console.error('told'); addEventListener('load', () => { document.title = `${frames.length} loaded`; });"
    (tmp_path / "all.html").write_text(f"<!doctype html>{frames}<script>{script}</script>")
    done = browsed(tmp_path / "all.html", tmp_path, "--enable-logging=stderr")
    assert f"<title>{len([*site.iterdir()])} loaded</title>" in done.stdout
    lines = [line for line in done.stderr.split("\n") if "CONSOLE" in line]
    assert len(lines) == 1, lines
    assert "told" in lines[0]
