"""The script `tests/gpu/run`, as far as it goes without a GPU."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from tinyddpm.bench import contest
from tinyddpm.cli import main

SCRIPT = Path(__file__).with_name("run")

PEER = """
class Peer:
    def __init__(self, task, variant):
        self.parameters = task.parameters
        assert variant == "runs", "no engine"
    def train_step(self): pass
    def denoise_step(self): pass
    def describe(self): return ""

def variants(task, compiled): return ["runs", "fails"]
make = Peer
"""


@pytest.fixture
def script() -> ModuleType:
    loader = SourceFileLoader("gpu_run", str(SCRIPT))
    spec = spec_from_loader("gpu_run", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_without_a_driver_it_says_so_in_one_line() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert "there is no NVIDIA driver" in line
        return
    pytest.skip("there is an NVIDIA driver")


@pytest.mark.parametrize(("error", "count"), [(100, 0), (0, 0)])
def test_without_a_gpu_it_says_so_in_one_line(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, error: int, count: int
) -> None:
    driver = SimpleNamespace(cuInit=lambda flags: error, cuDeviceGetCount=lambda pointer: 0)
    monkeypatch.setattr(script.ctypes, "CDLL", lambda name: driver)
    with pytest.raises(SystemExit, match=r"^tests/gpu/run: there is an NVIDIA driver but no usable GPU [^\n]*$"):
        script.cuda_version()


def test_a_part_that_takes_too_long_is_ended_with_its_processes(script: ModuleType, tmp_path: Path) -> None:
    child = tmp_path / "child"
    with pytest.raises(script.PartError, match=r"^not done after \d s$"):
        script.call(["sh", "-c", f"sleep 60 & echo $! > {child}; wait"], 0.5)
    for _ in range(100):  # The kernel takes a moment to end it.
        try:
            os.kill(int(child.read_text()), 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child.read_text().strip()}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child still runs")


@pytest.mark.parametrize(
    ("outcomes", "result", "passed"),
    [
        ("pass", "1 passed, 0 failed, 0 skipped", True),
        ("pass skip", "1 passed, 0 failed, 1 skipped", True),
        ("pass fail error", "1 passed, 2 failed, 0 skipped", False),
        ("skip", "0 passed, 0 failed, 1 skipped", False),
    ],
)
def test_counts_of_the_tests(script: ModuleType, tmp_path: Path, outcomes: str, result: str, passed: bool) -> None:
    """Read from a report that pytest has written; tests that were all skipped have not passed."""
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def broken(): raise KeyError\n"
        "def test_pass(): pass\n"
        "def test_fail(): assert False\n"
        "def test_skip(): pytest.skip('no GPU')\n"
        "def test_error(broken): pass\n"
    )
    report = tmp_path / "tests.xml"
    chosen = " or ".join(outcomes.split())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, f"--junit-xml={report}"]
    subprocess.run([*command, "test_some.py"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert script.tests_row(report) == ("tests", result, passed)


def test_rows_of_a_comparison(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what `tinyddpm bench --json` prints: a row each, one for who was left out, and the ratios."""
    monkeypatch.setattr(contest, "TURN", 0.02)
    peer = tmp_path / "some_peer.py"
    peer.write_text(PEER)
    small = ["--preset", "small", "--image-size", "4x4", "--batch-size", "2", "--threads", "1", "--rounds", "1"]
    network = ["--set", "network.channels=8", "--set", "network.multipliers=[1]", "--set", "network.attention=[]"]
    done = CliRunner().invoke(main, ["bench", *small, *network, "--peer", str(peer), "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    ours, other, left_out, ratio = script.contest_rows("small bf16", found)
    rate = found["contestants"]["tinyddpm"]["train"]["images_per_second"]
    assert ours.name == "small bf16: tinyddpm"
    assert ours.result.startswith(f"{rate:,.0f} img/s training, ")
    assert ours.result.endswith(" GiB")
    assert other.name == "small bf16: some runs"
    assert left_out[:2] == ("small bf16: some fails", "left out: some fails: AssertionError: no engine")
    assert ratio.result.startswith(f"{found['train_ratio']:.2f} × some runs training, ")


def test_row_of_a_training(script: ModuleType, tmp_path: Path) -> None:
    """From what `tinyddpm train` has left."""
    run = tmp_path / "run"
    options = ["--steps", "20", "--batch-size", "8", "--set", "network.width=8", "--threads", "1", "--log-every", "10"]
    done = CliRunner().invoke(main, ["train", "--data", "moons", "--out", str(run), *options])
    assert done.exit_code == 0, done.output
    name, result, passed = script.training_row(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    held_out = [line["validation_loss"] for line in lines if "validation_loss" in line][-1]
    assert (name, passed) == ("digits", True)
    assert result.startswith("20 steps, loss ")
    assert f"held out {held_out:.4f}" in result


def test_all_parts_run_whatever_fails(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table names the part that failed, and the exit code says so."""

    def fails(*arguments: Any) -> list[Any]:
        raise script.PartError("not done after 9 s")

    monkeypatch.setattr(sys, "argv", ["run", "--no-compile"])
    monkeypatch.setattr(script, "cuda_version", lambda: 13)
    monkeypatch.setattr(script, "environment", lambda cuda: Path(sys.executable))
    monkeypatch.setattr(script, "tests", fails)
    monkeypatch.setattr(script, "contest", lambda python, part, compiled: [script.Row(part, f"{compiled}", True)])
    monkeypatch.setattr(script, "training", lambda *_: [script.Row("digits", "done", True)])
    with pytest.raises(SystemExit) as raised:
        script.main()
    assert raised.value.code == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert lines[-6:-1] == [
        ["tests", "not", "done", "after", "9", "s", "FAILED"],
        *([*part.split(), "False"] for part in ("small bf16", "cifar10 bf16", "cifar10 tf32")),
        ["digits", "done"],
    ]
