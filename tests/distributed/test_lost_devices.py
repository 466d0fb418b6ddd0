"""A rank that fails while another waits for it in a sum on its device, which the host cannot look into."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cuda.conftest import make_shim
from distributed.lost_on_a_device import FAULTS
from helpers.ranks import started
from helpers.runs import loaded

pytestmark = pytest.mark.slow

TRAIN = (
    "train", "--data", "moons", "--set", "network.width=8", "--set", "network.depth=2", "--batch-size", 8,
    "--timesteps", 20, "--backend", "cupy", "--distributed", "nccl", "--save-every", 2, "--steps", 50,
)  # fmt: skip
"""Steps that are recorded from the second on."""

SILENT = r"rank 1 \(process \d+ on \S+\) has given no sign of life for 4 s"
RESUME = "; go on from the last save with --resume .*"
SAYS = {
    "stops": SILENT + RESUME,
    "stops, and the device is deaf": SILENT,
    "gives up": r"rank 1 \(process \d+ on \S+\) gave up: .*Unable to allocate 40.0 GiB.*; (go on from|all 4 steps).*",
    "stops in its sum": SILENT + RESUME,
    "stops after it": SILENT + "; all 5 steps are saved: go on with --resume .*",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rank_fails_in_the_fifth_step(fault: str, tmp_path: Path) -> None:
    """The sum is given up, or the process ended, and the half of a step is not saved. Between steps it can be saved."""
    make_shim("CPU, little shared memory")
    folder = tmp_path / "run"
    options = ("--set", "training.times=log-normal") if fault == "stops in its sum" else ()  # a step led by the host
    done = started(2, "distributed.lost_on_a_device", fault, 5, *TRAIN, *options, "--out", folder, timeout=60)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert re.fullmatch(f"Error: {SAYS[fault]}", line)
    assert "Traceback" not in done.stderr
    assert loaded(folder).step == (5 if fault == "stops after it" else 4)
    if fault != "stops":  # what goes on is that file, whatever befell the rank
        return
    resumed = started(2, "distributed.lost_on_a_device", "none", 0, "train", "--resume", folder, "--steps", 6,
                      "--distributed", "nccl", timeout=60)  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert loaded(folder).step == 6
