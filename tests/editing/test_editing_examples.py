"""The examples of editing run, from what training on the digits leaves."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from tinyddpm.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("examples") / "digits"
    small = ["--steps", "2", "--timesteps", "50", "--sample-count", "1", "--set", "network.channels=8"]
    result = CliRunner().invoke(main, ["train", "--out", str(folder), *small])
    assert result.exit_code == 0, result.output
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "columns", "rows"), [("interpolate", 11, 2), ("redraw", 10, 6), ("inpaint", 9, 4)])
def test_example_writes_its_picture(name: str, columns: int, rows: int, digits: str, tmp_path: Path) -> None:
    """Of so many columns and rows: tiles of 48 pixels, 2 between them."""
    picture = tmp_path / "picture.png"
    runpy.run_path(str(EXAMPLES / f"{name}_digits.py"))["main"](str(picture), digits)
    assert Image.open(picture).size == (50 * columns + 2, 50 * rows + 2)
