"""The examples of editing run, from what training on the digits leaves."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

import tinyddpm
from helpers.command_line import NARROW, TWO_STEPS, trained

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("examples") / "digits"
    return trained(folder, *TWO_STEPS, *NARROW, "--timesteps", "50")


@pytest.mark.parametrize(("name", "columns", "rows"), [("interpolate", 11, 2), ("redraw", 10, 6), ("inpaint", 9, 4)])
def test_example_writes_its_picture(name: str, columns: int, rows: int, digits: str, tmp_path: Path) -> None:
    """Of so many columns and rows: tiles of 48 pixels, 2 between them."""
    picture = tmp_path / "picture.png"
    runpy.run_path(str(EXAMPLES / f"{name}_digits.py"))["main"](str(picture), digits)
    assert Image.open(picture).size == (50 * columns + 2, 50 * rows + 2)


def test_what_is_enlarged_is_nearer_than_what_is_interpolated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of digits, 4x4 to 8x8, after 200 steps: by more than 5 standard errors, and exactly within a grey level."""
    run, picture = tmp_path / "run", tmp_path / "picture.png"
    tinyddpm.train(
        "digits", preset="enlarge-fashion", out=run, progress=False, steps=200, sample_count=1, learning_rate=3e-3,
        warmup=20, ema=0.98, flip=False, network={"channels": 16, "multipliers": [1, 2], "attention": []},
    )  # fmt: skip
    runpy.run_path(str(EXAMPLES / "judge_enlarged.py"))["main"](str(picture), str(run))
    found = re.findall(r"([+-][0-9.]+) ± ([0-9.]+) to bicubic's; shrunk again ([0-9.]+)/255", capsys.readouterr().out)
    (nearest, *_), _, (drawn, error, again), (exactly, its_error, exact) = (map(float, row) for row in found)
    assert nearest < 0
    assert drawn > 5 * error
    assert exactly > max(drawn, 5 * its_error)
    assert exact < 1 < again
    assert Image.open(picture).size == (50 * 4 + 2, 50 * 8 + 2)
