"""A model whose weights are finite, but too large to predict anything finite: each command says so, and exits 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.command_line import SIX_STEPS, fails, trained
from tinyddpm.backend import load_backend
from tinyddpm.model.checkpoint import load_checkpoint, save_checkpoint
from tinyddpm.model.load import CHECKPOINT, layout_of

pytestmark = pytest.mark.slow

MEASURED = ("the predictions for sample 0 are not finite", "take an earlier checkpoint")
DRAWN = ("sample 0 of 2 is not finite", "take an earlier checkpoint")


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = trained(tmp_path_factory.mktemp("huge") / "run", *SIX_STEPS, "--data", "moons", "--schedule", "cosine")
    layout = layout_of(load_backend("numpy"))
    found = load_checkpoint(Path(run) / CHECKPOINT, layout)
    found.weights, found.ema = found.weights * np.float32(1e30), found.ema * np.float32(1e30)
    save_checkpoint(Path(run) / CHECKPOINT, found, layout(found))
    return run


@pytest.mark.filterwarnings("ignore:(overflow|invalid|divide by zero):RuntimeWarning")
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["nll", "--out", "nll"], MEASURED),
        (["nll", "--json"], MEASURED),
        (["figure", "loss-by-time"], MEASURED),
        (["figure", "rate-distortion"], MEASURED),
        (["figure", "single-step"], MEASURED),
        (["figure", "vae"], MEASURED),
        (["figure", "straightness"], DRAWN),
        (["sample"], DRAWN),
        (["evaluate"], DRAWN),
    ],
    ids=" ".join,
)
def test_what_is_not_finite_is_one_line(here: Path, huge: str, command: list[str], says: tuple[str, str]) -> None:
    line = fails(*command, huge, "--count", "2")
    for part in says:
        assert part in line
    assert not list(here.rglob("*.json")) + list(here.rglob("*.png"))
