"""`tinyddpm figure`, as a user meets it."""

from __future__ import annotations

import sys
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import command_line
from helpers.command_line import NARROW, TWO_STEPS, run, says, trained
from tinyddpm import __version__
from tinyddpm.cli.figure import figure
from tinyddpm.figures.marks import read_mark

pytestmark = pytest.mark.slow

pytest.importorskip("matplotlib", reason="needs the figures extra")

SMALL = [*TWO_STEPS, "--timesteps", "12", "--batch-size", "8", "--threads", "1"]
PROCESS = ["forward", "schedules", "diffused", "kernel", "posterior"]
DRAWN = ["denoising", "content-detail", "guidance", "steps", "straightness", "text-attention"]
MEASURED = ["single-step", "loss-by-time", "rate-distortion", "vae"]
TINY = [
    *SMALL, *NARROW, "--schedule", "cosine", "--set", "network.multipliers=[1,2]", "--set", "network.blocks=1",
    "--condition-dropout", "0.2",
]  # fmt: skip

draws, fails = partial(says, "figure"), partial(command_line.fails, "figure")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(tmp_path_factory.mktemp("figure") / "digits", *TINY)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(tmp_path_factory.mktemp("figure") / "points", *SMALL, "--data", "mixture-1d", "--schedule", "cosine")


def test_every_figure_says_what_to_see_and_its_equation() -> None:
    """A paragraph or more, an equation, where it is from; and every option has help."""
    assert sorted(figure.commands) == sorted([*PROCESS, *DRAWN, *MEASURED])
    for name, command in figure.commands.items():
        text = run("figure", name, "--help").output
        assert "arXiv" in text, name
        assert any(sign in text for sign in "=~≤"), name
        assert len(str(command.help)) > 300, name
        assert command.short_help
        assert all(getattr(given, "help", "") for given in command.params if given.param_type_name == "option")


@pytest.mark.parametrize("name", PROCESS)
def test_figures_of_the_process(here: Path, name: str) -> None:
    short = ["--timesteps", "30"] if name == "schedules" else ["--timesteps", "30", "--schedule", "cosine"]
    said = draws(name, *short, *(["--count", "60"] if name == "kernel" else []))
    assert said.splitlines()[-1] == f"wrote figures/{name}.png"
    with Image.open(f"figures/{name}.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 200
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10
    assert ("t = 0" in said) == (name in ("schedules", "diffused", "kernel", "posterior")), "a chart in the terminal"


def test_data_of_a_user_s_own_are_drawn(here: Path) -> None:
    """Points in the plane go forwards, and numbers are diffused, from files; what does not fit is one line."""
    rng = np.random.default_rng(0)
    for dimension in (1, 2, 3):
        np.save(f"{dimension}.npy", rng.normal(size=(40, dimension)))
    few = ["--timesteps", "20", "--schedule", "cosine"]
    assert draws("forward", "--data", "2.npy", "--at", "0,19", "--out", "f.svg", *few).endswith("wrote f.svg\n")
    assert "<svg" in Path("f.svg").read_text()
    draws("diffused", "--data", "1.npy", "--t", "3", *few)
    assert "cannot draw points of shape (40, 3)" in fails("forward", "--data", "3.npy", *few)
    assert "this figure is one-dimensional: give points (n, 1)" in fails("diffused", "--data", "2.npy", *few)
    assert "t is 20: give a time from 0 to 19" in fails("forward", "--at", "20", *few)
    assert "give times from 0 to 19, separated by commas" in fails("forward", "--at", "a", *few)
    assert "this figure is of images" in fails("schedules", "--data", "2.npy", "--timesteps", "30")
    assert "there is no number 1797, the last is 1796" in fails("schedules", "--data", "digits", "--number", "1797")
    assert "--first is beyond the last number, 39" in fails("forward", "--data", "2.npy", "--first", "40")


@pytest.mark.parametrize("name", MEASURED)
def test_figures_of_what_is_measured(here: Path, digits: str, points: str, name: str) -> None:
    """Of images and of points alike."""
    few = ["--count", "4", *(["--levels", "3", "--seeds", "1"] if name == "single-step" else ["--times", "4"])]
    for checkpoint, split in ((digits, "held-out"), (points, "test")):
        said = draws(name, checkpoint, "--split", split, *few, "--out", "x.png")
        assert said.splitlines()[-1] == "wrote x.png"
        assert Image.open("x.png").size[0] == 1300


def test_figures_of_what_is_drawn(here: Path, digits: str, points: str) -> None:
    few = ["--sample-steps", "3"]
    draws("denoising", digits, "--count", "2", *few)
    draws("denoising", points, "--count", "50", *few, "--out", "p.svg")
    draws("steps", digits, "--steps", "2,0", "--count", "3", "--sampler", "ddim")
    draws("steps", points, "--steps", "2,3", "--count", "30", "--out", "s.png")
    draws("guidance", digits, "--scales", "1,2.5", "--count", "3", *few)
    assert "RMSE between two samples" in draws("content-detail", digits, "--starts", "2", "--endings", "2", *few)
    written = {path.name for path in Path("figures").iterdir()}
    assert written == {"denoising.png", "steps.png", "guidance.png", "content-detail.png"}


def test_straightness_of_several_runs(here: Path, digits: str) -> None:
    """A number for each run, which batches leave alone, and samples and steps do not."""
    learns = ["--steps", "60", "--learning-rate", "1e-2", "--set", "training.ema=0.5", "--set", "training.warmup=0"]
    points = str(here / "points")
    says("train", "--out", points, "--data", "mixture-1d", "--schedule", "cosine", "--predict", "v", *SMALL, *learns)

    def numbers(*arguments: str) -> dict[str, float]:
        lines = draws("straightness", *arguments, "--out", "s.svg").splitlines()
        assert lines[-1] == "wrote s.svg"
        return {line.split(": ")[-1]: float(line.split()[2]) for line in lines if line.startswith("S = ")}

    few = "--count", "4"
    both = numbers(digits, points, *few)
    # What has learned nothing predicts eps = 0: its x_0 is the same all the way, and a line leads there.
    assert both == {"digits": 0.0, "points": pytest.approx(both["points"])}
    assert both["points"] > 0.05
    assert numbers(points, *few, "--batch-size", "1") == pytest.approx({"points": both["points"]}, rel=1e-3)
    for other in (["--steps", "3"], ["--seed", "1"], ["--spacing", "karras", "--steps", "5"]):
        assert numbers(points, *few, *other)["points"] != pytest.approx(both["points"], rel=0.01)
    mark = read_mark(Path("s.svg"))
    assert mark["checkpoints"]["points"]["sha256"] == sha256((here / "points/checkpoint.h5").read_bytes()).hexdigest()
    assert mark["options"]["runs"] == [points]
    assert "give 1 to 6" in fails("straightness", *(str(here / str(number)) for number in range(9)))


def test_a_figure_says_what_made_it(here: Path, digits: str) -> None:
    """What it was told, and the checkpoint it is of; not where it was written, nor on how many threads."""
    process = ["kernel", "--timesteps", "30", "--schedule", "cosine", "--count", "60"]
    for out in "k.png", "other.png", "k.svg":
        draws(*process, "--out", out)
    told = {"schedule": "cosine", "timesteps": 30, "seed": 0, "x0": 1.5, "count": 60}
    made = {"made_by": "tinyddpm figure kernel", "version": __version__, "options": told}
    assert read_mark(Path("k.png")) == read_mark(Path("k.svg")) == made
    assert Path("k.png").read_bytes() == Path("other.png").read_bytes()
    steps = ["steps", digits, "--steps", "2,3", "--count", "3", "--labels", "3,8"]
    for threads in "1", "2":
        draws(*steps, "--threads", threads, "--out", f"{threads}.svg")
    assert Path("1.svg").read_bytes() == Path("2.svg").read_bytes()
    mark = read_mark(Path("1.svg"))
    assert mark["checkpoint"] == {
        "step": 2, "sha256": sha256((Path(digits) / "checkpoint.h5").read_bytes()).hexdigest(), "weights": "average",
    }  # fmt: skip
    assert mark["options"].items() >= {"checkpoint": digits, "steps": "2,3", "count": 3, "labels": "3,8"}.items()
    said = run("info", "1.svg").stdout.splitlines()
    assert said[0].split() == ["made_by", "tinyddpm", "figure", "steps"]
    assert "labels 3,8" in said[3]


def test_steps_draws_what_sample_draws(here: Path, digits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are the samples of `sample` with the same seed and steps."""
    given = []
    monkeypatch.setattr("tinyddpm.figures.style.draw_tiles", lambda tiles, *_: given.append(tiles))
    draws("steps", digits, "--steps", "2,3", "--count", "4", "--seed", "7", "--labels", "3,8")
    for steps, row in zip((2, 3), given[0], strict=True):
        out = f"s{steps}"
        run("sample", digits, "--sample-steps", str(steps), "--count", "4", "--seed", "7", "--labels", "3,8", "--npz",
            "--out", out)  # fmt: skip
        np.testing.assert_array_equal(np.load(f"{out}/samples.npz")["images"], row)


def test_steps_beyond_the_chain_are_the_whole_chain(here: Path, digits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one row: the chain has 12, which two of the default numbers exceed."""
    rows: list[list[str]] = []
    monkeypatch.setattr("tinyddpm.figures.style.draw_tiles", lambda tiles, above, beside, *_: rows.append(beside))
    draws("steps", digits, "--count", "1")
    draws("steps", digits, "--count", "1", "--steps", "12,0,2")
    assert rows == [["5 steps", "10 steps", "all 12"], ["all 12", "2 steps"]]


def test_attention_to_words(here: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    np.savez("c.npz", images=images, captions=np.asarray(["red square", "blue square"] * 10))
    words = [
        "--data",
        "c.npz",
        "--condition",
        "text",
        "--set",
        "condition.length=6",
        "--preset",
        "small",
        "--image-size",
        "8x8",
    ]
    folder = trained(here / "words", *words, *TINY, "--set", "network.attention=[4]")
    said = draws("text-attention", folder, "--prompt", "red square", "--count", "1", "--sample-steps", "3").splitlines()
    shares = {line.split()[-1]: float(line.split()[0]) for line in said[:3]}
    assert [*shares] == ["(start)", "red", "square"]
    assert sum(shares.values()) == pytest.approx(100, abs=0.2)
    assert said[-1] == "wrote figures/text-attention.png"


@pytest.mark.parametrize("number", ["nan", "inf", "1e300", "-1e30"])
def test_a_start_that_is_no_usable_number_is_one_line(here: Path, number: str) -> None:
    asked = "give a number from -1,000,000 to 1,000,000"
    assert fails("kernel", "--x0", number).endswith(f"--x0 is {float(number):g}: {asked}")
    assert fails("posterior", "--xt", number).endswith(f"--xt is {float(number):g}: {asked}")
    assert not [*here.iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1e6", "-1e6", "1e-300"])
def test_far_starts_are_drawn(here: Path, number: str) -> None:
    draws("kernel", "--x0", number, "--count", "20")
    draws("posterior", "--xt", number)
    draws("posterior", "--xt", number, "--t", "2")


def test_what_cannot_be_drawn_is_one_line(
    here: Path, digits: str, points: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "this figure is of images" in fails("content-detail", points)
    assert "trained without captions" in fails("text-attention", digits, "--prompt", "a")
    assert "--scales '1,x': give numbers from 0 on" in fails("guidance", digits, "--scales", "1,x")
    assert "--steps '2.5': give whole numbers from 0 on" in fails("steps", digits, "--steps", "2.5")
    assert "figures are PNG or SVG" in fails("steps", digits, "--out", "x.gif")
    assert "No such command 'kernal'" in fails("kernal")
    assert not [*here.iterdir()]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for arguments in (["kernel"], ["vae", digits], ["steps", digits]):
        assert "pip install 'tinyddpm[figures]'" in fails(*arguments)
