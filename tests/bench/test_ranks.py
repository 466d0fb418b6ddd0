"""What ranks cost here (examples/ranks.py): what turns come to, and real ones under mpiexec."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.ranks import mpiexec
from tinyddpm.bench.scaling import Link, ring_seconds
from tinyddpm.bench.task import make_task
from tinyddpm.errors import ConfigError, TinyDDPMError
from tinyddpm.model.config import preset

RANKS = Path(__file__).parents[2] / "examples" / "ranks.py"

SMALL = [
    "--preset", "digits", "--set", "network.channels=8", "--set", "network.attention=[]", "--set",
    "training.batch_size=4", "--rounds", "2", "--steps", "5", "--sizes", "1000,4000000",
]  # fmt: skip


@pytest.fixture(scope="module")
def ranks() -> Any:
    return SimpleNamespace(**runpy.run_path(str(RANKS)))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RANKS), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def fails(*arguments: str) -> str:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line.removeprefix("Error: ")


def test_turns_come_to_medians_and_to_what_the_model_makes_of_them(ranks: Any) -> None:
    """Of a known link and compute, the step foretold is their sum; one turn of three was disturbed."""
    task = make_task(preset("digits").config, "digits")
    link = Link(2e9, 50e-6)

    def turn(slower: float, p: int) -> dict[str, Any]:
        sums = {str(n): {kind: [ring_seconds(4 * n, p, link)] for kind in ("fp32", "bf16")} for n in (10**5, 10**7)}
        return {"threads": 1, "step": [0.3 * slower, 0.31 * slower], "compute": [0.2 * slower] * 2, "sums": sums}

    one = [{"threads": 2, "step": [0.61 * slower]} for slower in (1, 9, 1)]
    found = ranks.outcome(task, {1: one, **{p: [turn(1, p), turn(9, p), turn(1, p)] for p in (2, 4)}})
    assert found["one_process"] == {"threads": 2, "step_seconds": 0.61}
    for p, each in zip((2, 4), found["ranks"], strict=True):
        assert each["ranks"] == p
        assert each["step_seconds"] == pytest.approx(0.31)
        assert each["times_one_process"] == pytest.approx(0.61 / 0.31)
        assert each["link"]["bytes_per_second"] == pytest.approx(2e9)
        assert each["link"]["latency_seconds"] == pytest.approx(50e-6)
        whole = 0.2 + ring_seconds(4 * task.parameters, p, link)
        assert each["foretold_seconds"] == pytest.approx(whole)
        assert each["off"] == pytest.approx(whole / 0.31 - 1)
    rows = [line.split() for line in ranks.table(found)]
    assert ["10,000,000", "numbers", *(f"{1e3 * ring_seconds(4e7, p, link):.3f}" for p in (2, 2, 4, 4))] in rows


@pytest.mark.slow
def test_ranks_take_turns_with_one_process() -> None:
    """Two ranks and a small network, two turns of each; whatever their speed, it is all told."""
    done = run(*SMALL, "--ranks", "2", "--launcher", mpiexec(), "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert {count: len(turns) for count, turns in found["turns"].items()} == {"1": 2, "2": 2}
    assert all(len(turn[name]) == 5 for turn in found["turns"]["2"] for name in ("step", "compute"))
    (two,) = found["ranks"]
    assert two["ranks"] == 2
    assert set(two["sum_seconds"]) == {"1000", str(found["parameters"]), "4000000"}
    assert all(seconds > 0 for kinds in two["sum_seconds"].values() for seconds in kinds.values())
    assert two["foretold_seconds"] == pytest.approx(two["compute_seconds"] + two["sent_seconds"])


@pytest.mark.slow
def test_what_cannot_be_measured_is_one_line(ranks: Any) -> None:
    assert "give numbers from 2 on" in fails(*SMALL, "--ranks", "1,2")
    assert "--ranks 3 does not divide the batch of 4" in fails(*SMALL, "--ranks", "3")
    assert "--launcher, such as mpiexec" in fails(*SMALL, "--launcher", "no-such-launcher")
    assert "a turn ended with exit code 1: " in fails(*SMALL, "--launcher", "false")
    with pytest.raises(ConfigError, match="two sizes or more"):
        ranks.parse_sizes("1000,1000")
    with pytest.raises(TinyDDPMError, match="a turn ended with exit code 3: in flames"):
        ranks.run([sys.executable, "-c", "print('Error: in flames'); print('ash'); exit(3)"])
