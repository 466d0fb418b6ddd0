"""The report of runs: what stands in the page is theirs, nothing of it is run, and a browser shows it well."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import tinyddpm
from helpers.pages import CHROMIUM, Tree, seen
from tinyddpm.cli import main
from tinyddpm.report import page as pages
from tinyddpm.report.folder import read_run, spread
from tinyddpm.report.page import page

pytestmark = pytest.mark.slow

EVIL = "<script>document.title = 'run'</script>"
NOW = datetime(2026, 11, 26, 8, 30, tzinfo=UTC)

SMALL: dict[str, Any] = {
    "preset": "small", "timesteps": 5, "batch_size": 8, "log_every": 1, "validate_every": 2, "sample_every": 2,
    "sample_count": 100, "network": {"channels": 8, "multipliers": [1], "attention": []},
}  # fmt: skip


def report(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", *arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of images whose classes, data and folders have names that are HTML."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(60) % 2
    found = []
    for name, steps in (("<i>one&amp;", 6), ("two", 8)):
        options = {**SMALL, "steps": steps, "learning_rate": 1e-3 * steps}
        tinyddpm.train(images, out=folder / name, labels=labels, classes=[EVIL, "'\"&amp;"], progress=False, **options)
        found.append(folder / name)
    part = {"mean": 3.25, "se": 0.125, "se_noise": None}
    parts = {"L_T": part | {"mean": 0.0}, "L_t": part | {"mean": 2.0}, "L_0": part | {"mean": 1.25}, "total": part}
    likelihood = {
        "samples": 9, "data": EVIL, "split": "test", "unit": "bits/dim", "T": 5, "bound": parts,
        "steps": {"t": [0, 1, 4], "bits": [1.25, 1.5, 0.5], "rate": [2.0, 0.5, 0], "distortion": [1.5, 20.0, 90.0]},
        "flow": {"mean": 3.0, "se": 0.5},
    }  # fmt: skip
    (found[0] / "nll").mkdir()
    (found[0] / "nll" / "nll.json").write_text(json.dumps(likelihood))
    evaluation = {
        "samples": 7, "step": 6, "features": {"name": "pixels", "resize": "none"}, "compared": 9,
        "data": EVIL, "split": "test",
        "floor": {"samples": 4, "numbers": {"frechet": 1.5}}, "varied": "guidance",
        "drawn": [{"value": w, "numbers": {"frechet": 10.0 * w, EVIL: w}} for w in (1.0, 2.0)],
    }  # fmt: skip
    (found[0] / "evaluations").mkdir()
    (found[0] / "evaluations" / "pixels-7.json").write_text(json.dumps(evaluation))
    Image.new("L", (40, 20), 7).save(found[0] / "evaluations" / "pixels-7-closest-1.0.png")
    return found


def written(*folders: Path) -> str:
    return page([read_run(folder.name, folder) for folder in folders], NOW)


def metrics(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_numbers_are_those_of_the_run(runs: list[Path]) -> None:
    tree = Tree(written(runs[0]))
    terms = dict(zip(tree.inside("dt"), tree.inside("dd"), strict=True))
    held = metrics(runs[0], "validation_loss")
    known = json.loads(CliRunner().invoke(main, ["info", str(runs[0]), "--json"]).stdout)
    assert terms["steps"] == "0 to 6"
    assert re.fullmatch(r"training \d+s, validating \d+s, saving \d+s, drawing \d+s", terms["spent"])
    assert terms["loss"] == f"{metrics(runs[0], 'loss')[-1]:.4g}"
    assert terms["held-out loss"] == f"{held[-1]:.4g}"
    assert terms["lowest held-out loss"] == f"{min(held):.4g} at step {2 + 2 * held.index(min(held))}"
    assert terms["parameters"] == f"{known['parameters']:,}"
    assert terms["bits/dim"] == "3.25 ± 0.12"
    assert terms["samples"] == "54 to train on, 6 held out"
    assert terms["ended"] == "complete"
    assert terms["versions"].startswith("python 3.")
    captions = " ".join(tree.inside("caption"))
    assert f"7 samples of <i>one&amp; at step 6 beside 9 of {EVIL} (test), features: pixels, resize: none;" in captions
    assert "Drawn with guidance 1.0, and below each the nearest training sample" in tree.inside("figcaption")
    cells = tree.inside("td")
    for value in (*metrics(runs[0], "loss"), *held, *metrics(runs[0], "gradient_norm")):
        assert f"{value:.4g}" in cells


def test_pictures_are_those_of_the_run_byte_for_byte(runs: list[Path]) -> None:
    tree = Tree(written(runs[0]))
    found = [base64.b64decode(str(image["src"]).partition(",")[2]) for image in tree.of("img")]
    names = ["samples.png", *(f"samples/step_000000{step}.png" for step in (2, 4, 6)), "denoising.gif"]
    assert found == [(runs[0] / name).read_bytes() for name in [*names, "evaluations/pixels-7-closest-1.0.png"]]
    for image, content in zip(tree.of("img"), found, strict=True):
        with Image.open(io.BytesIO(content)) as opened:
            assert (image["width"], image["height"]) == tuple(map(str, opened.size))
        assert image["alt"]


def test_nothing_from_a_file_becomes_markup(runs: list[Path]) -> None:
    """Names of runs, classes, data and numbers are HTML here; the page has one script, and asks for nothing."""
    text = written(*runs)
    tree = Tree(text)
    assert tree.inside("script") == [Path(pages.__file__).with_name("page.js").read_text()]
    assert not tree.of("i")
    assert not tree.of("b")
    assert sum(EVIL in words for words in tree.inside("td")) >= 2
    assert tree.inside("title") == ["<i>one&amp;, two"]
    addresses = [value for _, attributes in tree.tags for key, value in attributes.items() if key in ("src", "href")]
    assert all(re.match(r"data:(image/(png|gif);base64|),|#[a-z]+$", str(address)) for address in addresses)
    assert "url(" not in text
    assert "http:" not in text
    assert "https:" not in text
    assert not [key for _, attributes in tree.tags for key in attributes if key.startswith("on") or key == "style"]


def test_headings_are_in_order_and_controls_have_labels(runs: list[Path]) -> None:
    for folders in (runs[:1], runs):
        tree = Tree(written(*folders))
        levels = [int(tag[1]) for tag, _ in tree.tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        names = [str(attributes["id"]) for _, attributes in tree.tags if "id" in attributes]
        assert len(set(names)) == len(names)
        labels = {label["for"] for label in tree.of("label")}
        assert {control["id"] for control in tree.of("input")} == labels != set()
        assert all(drawn["aria-label"] for drawn in tree.of("svg") if drawn.get("role") == "img")
        assert tree.of("html") == [{"lang": "en"}]


def test_several_runs_stand_side_by_side(runs: list[Path]) -> None:
    """Settings that differ come first, and are the ones that do; what a run has not is a dash."""
    text = written(*runs)
    apart = text.partition("Settings that differ")[2].partition("</table>")[0]
    rows = re.findall(r'<th scope="row">(\S+)</th><td>(\S+)</td><td>(\S+)</td>', apart)
    assert rows == [("training.steps", "6", "8"), ("training.learning_rate", "0.006", "0.008")]
    assert "<td>3.25 ± 0.12</td><td>–</td>" in text
    assert "by the probability flow</th><td>3 ± 0.5</td><td>–</td>" in text
    assert text.count('class="line n1"') >= 5
    assert "<td>–</td>" not in written(runs[1]).partition("Summary")[2].partition("</section>")[0]
    assert 'id="likelihood"' not in written(runs[1])
    assert 'id="evaluation"' not in written(runs[1])


@pytest.mark.parametrize("name", ["config.toml", "run.json", "checkpoint.h5", "samples.png", "nll/nll.json"])
@pytest.mark.parametrize("content", [b"\xff\x00<b>", b"{}", b"[" * 100_000])
def test_what_is_damaged_is_left_out_and_told(name: str, content: bytes, runs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    (folder / name).write_bytes(content)
    result = report(str(folder))
    assert result.exit_code == 0, result.output
    if (name, content) != ("nll/nll.json", b"{}"):
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("note: ")
        (note,) = re.findall(r'<ul class="notes"><li>(.*?)</li></ul>', (folder / "report.html").read_text())
        assert html.unescape(note) == result.stderr.removeprefix("note: ").rstrip("\n")
    Tree((folder / "report.html").read_text())


@pytest.mark.parametrize(
    "found",
    [
        {"bound": 3}, {"bound": {"total": {"mean": "3"}}}, {"steps": {"t": [1], "bits": [1, 2]}},
        {"steps": {"t": [0, 1], "bits": [1, None]}}, {"steps": {"t": [1e308], "bits": [1]}}, {"steps": [1]},
        {"bound": {"total": {"mean": float("nan")}}}, {"data": ["a"], "steps": {"t": [-5, 1], "bits": [0, -1]}},
    ],
)  # fmt: skip
def test_a_strange_report_of_the_likelihood_breaks_nothing(found: Any, runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text(json.dumps(found))
    Tree(page([read_run("a", runs[1], tmp_path / "n.json")], NOW))
    (runs_copy := tmp_path / "run" / "evaluations").mkdir(parents=True)
    shutil.copy(runs[1] / "metrics.jsonl", tmp_path / "run")
    for number, strange in enumerate(
        [{"drawn": found}, {"drawn": [found], "floor": [1]}, {"drawn": [{"numbers": found}]}]
    ):
        (runs_copy / f"{number}.json").write_text(json.dumps(strange))
    Tree(written(tmp_path / "run"))


def test_an_evaluation_that_is_none_is_told_and_one_of_one_value_has_no_chart(runs: list[Path], tmp_path: Path) -> None:
    """So is a run that was killed: its record has no end."""
    (tmp_path / "evaluations").mkdir()
    shutil.copy(runs[0] / "metrics.jsonl", tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"parts": [{"step": 6}]}))
    (tmp_path / "evaluations" / "a.json").write_text("[]")
    found = {"varied": "guidance", "drawn": [{"value": 1.0, "numbers": {"frechet": 2.5}}]}
    (tmp_path / "evaluations" / "b.json").write_text(json.dumps(found))
    run = read_run("a", tmp_path)
    assert run.notes[-1] == f"{tmp_path / 'evaluations' / 'a.json'} is no report: it holds no JSON object"
    assert [each.found for each in run.evaluations] == [found]
    text = page([run], NOW)
    assert "not yet, or it was killed" in text
    assert "<td>2.5</td>" in text.partition("Evaluation</h2>")[2]
    assert "<svg" not in text.partition("Evaluation</h2>")[2].partition("</section>")[0]


def test_the_least_that_a_run_has_is_enough(tmp_path: Path) -> None:
    """A run that has just begun, and one of points."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert "<h1>run</h1>" in written(tmp_path / "run")
    tinyddpm.train(
        "moons", out=tmp_path / "moons", steps=2, timesteps=5, batch_size=8, network={"width": 8, "depth": 1}
    )
    assert "<h1>moons</h1>" in written(tmp_path / "moons")


def test_sizes_are_bounded(runs: list[Path], tmp_path: Path) -> None:
    """However long a text, a chain of steps or a row of pictures is, the page stays one that a browser opens."""
    folder = tmp_path / "run"
    shutil.copytree(runs[1], folder)
    (folder / "config.toml").write_text(f'[condition]\nwords = "{"<" * 100_000}"\n')
    lines = (f'{{"step": {step}, "loss": {1 + step % 7}}}\n' for step in range(1, 30_001))
    (folder / "metrics.jsonl").write_text("".join(lines))
    for step in range(1, 100):
        shutil.copy(folder / "samples.png", folder / "samples" / f"step_{step:07d}.png")
    (folder / "denoising.gif").write_bytes(b"GIF89a" + bytes(9 << 20))
    text = written(folder)
    pictures = 25 * (folder / "samples.png").stat().st_size * 4 // 3
    assert len(text) < 300_000 + pictures
    assert "99,400 more letters" in text
    assert "denoising.gif is larger than 8 MiB" in text
    assert len(Tree(text).of("img")) == 25
    assert [step for step, _ in spread(list(enumerate(range(100))), 4)] == [0, 33, 66, 99]


def test_files_are_named_on_the_command_line(runs: list[Path], tmp_path: Path) -> None:
    one, two = map(str, runs)
    assert report(one, two, "--out", str(tmp_path / "a" / "r.html")).stdout == f"wrote {tmp_path / 'a' / 'r.html'}\n"
    nll = str(runs[0] / "nll" / "nll.json")
    text = "Error: 1 --nll for 2 runs: give one for each, in their order\n"
    assert report(one, two, "--nll", nll).stderr == text
    assert report(two, "--nll", nll, "--out", str(tmp_path / "b.html")).exit_code == 0
    assert "3.25 ± 0.12" in (tmp_path / "b.html").read_text()
    (tmp_path / "c.json").write_text("{")
    assert report(two, "--nll", str(tmp_path / "c.json")).stderr.endswith("c.json is damaged: it is no JSON text\n")
    assert report(str(tmp_path)).stderr.endswith("is no run folder: it has no metrics.jsonl\n")
    before = (runs[0] / "checkpoint.h5").read_bytes()
    text = "checkpoint.h5: the page is HTML: give a name that ends in .html or .htm\n"
    assert report(two, "--out", str(runs[0] / "checkpoint.h5")).stderr.endswith(text)
    assert (runs[0] / "checkpoint.h5").read_bytes() == before


LOOK = Path(__file__).with_name("page_look.js")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_it(dark: bool, runs: list[Path], tmp_path: Path) -> None:
    """Pictures and numbers are the run's, at the width of a phone and of a desktop; texts can be read, and the slider
    moved; the page's policy lets its own style and script be.
    """
    sizes = [Image.open(io.BytesIO((runs[0] / name).read_bytes())).size for name in ("samples.png", "denoising.gif")]
    for width, frame in zip((390, 1280), seen([written(*runs)], LOOK, tmp_path, dark), strict=True):
        assert frame["width"] == width
        assert frame["overflow"] == 0, "nothing but tables scrolls sideways"
        assert frame["dark"] is dark
        assert frame["title"] == "<i>one&amp;, two"
        assert len(frame["pictures"]) == 12
        assert all(wide > 0 for wide, _ in frame["pictures"])
        assert set(map(tuple, frame["pictures"])) >= set(sizes)
        assert frame["row"]["held-out loss"] == [f"{metrics(run, 'validation_loss')[-1]:.4g}" for run in runs]
        assert frame["row"]["loss"] == [f"{metrics(run, 'loss')[-1]:.4g}" for run in runs]
        assert frame["through"] == [["step 6", 1], ["step 4", 1]], "the slider shows one grid at a time"
        assert frame["charts"] >= 5
        assert frame["below"] < 50, "a run's samples stand right below its name, however many another has"
        assert frame["contrast"] >= 4.5, frame["faintest"]
