"""The parts of the script `tests/gpu/run`, each by itself: its limits, what it leaves, and its rows of results."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from gpu import drawing, results
from gpu.results import Row
from helpers.command_line import ONE_LEVEL
from tinyddpm.bench import contest
from tinyddpm.bench.ours import Profile
from tinyddpm.bench.report import as_json
from tinyddpm.bench.task import make_task
from tinyddpm.cli import main
from tinyddpm.model.config import preset

pytestmark = pytest.mark.slow

PEER = """
class Peer:
    def __init__(self, task, variant):
        self.parameters = task.parameters
        assert variant == "runs", "no engine"
    def train_step(self): pass
    def denoise_step(self): pass
    def describe(self): return "by its twin"

def variants(task, compiled): return ["runs", "fails"]
make = Peer
"""


def run(script: ModuleType, folder: Path, code: str, limit: float = 60, **job: Any) -> list[Any]:
    """Run a part of this Python code."""
    here = script.Machine(Path(sys.executable), "", True, folder / "choices" / "cudnn.jsonl", "", 1)
    return script.run_part(
        "some", script.Job(["-c", code], **{"output": None, "rows": list, **job}), here, folder, limit
    )


def printed(script: ModuleType, file: Path) -> list[Any]:
    return [Row("some", file.read_text())]


def test_what_a_part_prints_is_kept(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its end is shown where it failed, and its results are apart where they have a file."""
    code = "import sys; print('found'); print('noise', file=sys.stderr)"
    result = tmp_path / "some.json"
    rows = partial(printed, script, result)
    assert run(script, tmp_path, code, output=result, rows=rows) == [("some", "found\n", True)]
    assert (tmp_path / "some.txt").read_text() == "noise\n"
    capsys.readouterr()
    assert run(script, tmp_path, f"{code}; sys.exit(3)") == [("some", "exited with code 3", False)]
    assert "found" in (tmp_path / "some.txt").read_text()
    assert "noise" in capsys.readouterr().out


def test_what_is_found_is_kept(script: ModuleType, tmp_path: Path) -> None:
    """The rows, and the chosen plans as they are by then."""
    choices, out = tmp_path / "choices" / "cudnn.jsonl", tmp_path / "out"
    out.mkdir()
    here = script.Machine(Path(sys.executable), "", True, choices, "", 1)
    script.keep(Row("some", "1"), here, out, None)
    assert [path.name for path in out.iterdir()] == ["rows.jsonl"]
    choices.parent.mkdir()
    for count, text in enumerate(("{}", "{ }"), 2):
        choices.write_text(text)
        script.keep(Row("some", str(count)), here, out, None)
        assert (out / "cudnn.jsonl").read_text() == text
        assert [json.loads(line)["result"] for line in (out / "rows.jsonl").read_text().splitlines()][-1] == str(count)


def test_a_part_that_leaves_nothing_has_failed(script: ModuleType, tmp_path: Path) -> None:
    """What an earlier call has left is not its own."""
    (tmp_path / "some.xml").write_text("<testsuites><testsuite tests='3'/></testsuites>")
    rows = partial(results.tests_rows, "some", tmp_path / "some.xml")
    assert run(script, tmp_path, "", rows=rows) == [("some", "has left no result", False)]
    assert run(script, tmp_path, "exit(2)", rows=rows) == [("some", "exited with code 2", False)]


@pytest.fixture
def ready(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file with which a part says that it is at its limit.

    Parts hear SIGINT, as those of the script do, even where the tests run in the background of a shell that ignores it.
    """
    file = tmp_path / "ready"
    clock = SimpleNamespace(monotonic=lambda: 1000.0 * file.exists(), sleep=time.sleep)
    monkeypatch.setattr(script, "time", clock)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield file
    signal.signal(signal.SIGINT, before)


def test_a_part_at_its_limit_tells_what_it_has(script: ModuleType, tmp_path: Path, ready: Path) -> None:
    code = f"""
import pathlib, time
try:
    pathlib.Path({str(ready)!r}).touch()
    time.sleep(60)
except KeyboardInterrupt:
    print("what it had")
"""
    result = tmp_path / "some.json"
    rows = partial(printed, script, result)
    assert run(script, tmp_path, code, output=result, rows=rows) == [
        ("some", "what it had\n", True),
        ("some", "stopped after 1000 s", False),
    ]


def test_a_part_that_goes_on_is_ended_with_its_processes(
    script: ModuleType, tmp_path: Path, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "GRACE", 0.5)
    child = tmp_path / "child"
    code = f"""
import pathlib, signal, subprocess, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path({str(child)!r}).write_text(str(subprocess.Popen(["sleep", "60"]).pid))
pathlib.Path({str(ready)!r}).touch()
time.sleep(60)
"""
    assert run(script, tmp_path, code) == [("some", "stopped after 1000 s", False)]
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
    assert results.tests_rows("tests", report) == [("tests", result, passed)]


def test_rows_of_a_comparison(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what `tinyddpm bench --json` prints: a row each that says what ran, one for who was left out, the ratios."""
    monkeypatch.setattr(contest, "TURN", 0.02)
    peer = tmp_path / "some_peer.py"
    peer.write_text(PEER)
    small = ["--preset", "small", "--image-size", "4x4", "--batch-size", "2", "--threads", "1", "--rounds", "1"]
    done = CliRunner().invoke(main, ["bench", *small, *ONE_LEVEL, "--peer", str(peer), "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    ours, other, left_out, ratio = results.contest_rows("small-bf16", found)
    rate = found["contestants"]["tinyddpm numpy"]["train"]["images_per_second"]
    assert ours.name == "small-bf16: tinyddpm numpy"
    assert ours.result.startswith(f"{rate:,.0f} img/s training, ")
    assert " GiB; numpy " in ours.result
    assert other.name == "small-bf16: some runs"
    ratio_to_it = found["ratios"]["train"]["tinyddpm numpy"]["some runs"]
    assert f", ours {ratio_to_it:.2f} and " in other.result
    assert other.result.endswith(" times that; by its twin")
    assert left_out[:2] == ("small-bf16: some fails", "left out: some fails: AssertionError: no engine")
    assert ratio.result.startswith(f"{found['train_ratio']['tinyddpm numpy']:.2f} × some runs training, ")


def test_rows_of_one_contestant(script: ModuleType) -> None:
    """Without a peer there is no ratio."""
    task = make_task(preset("digits").config, "digits")
    standing = contest.Standing("numpy", [0.5], [0.25], None)
    profile = Profile(0.5, [], 1e9, 1e9, {})
    ratios: dict[str, dict[str, dict[str, float]]] = {kind: {"ours": {}} for kind in contest.KINDS}
    found = as_json(task, contest.Outcome({"ours": standing}, ratios, {}, 1e9, {"ours": profile}))
    speeds = f"{task.batch_size / 0.5:,.0f} img/s training, {task.batch_size / 0.25:,.0f} denoising"
    assert results.contest_rows("some", found) == [("some: ours", f"{speeds}; numpy", True)]


@pytest.mark.parametrize(
    ("log", "faults", "passed"),
    [
        ("========= ERROR SUMMARY: 0 errors\nnoise\n========= ERROR SUMMARY: 0 errors", "0", True),
        ("========= ERROR SUMMARY: 2 errors\n========= ERROR SUMMARY: 3 errors", "5", False),
        ("========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)", "1", False),
    ],
)
def test_rows_of_a_checker(log: str, faults: str, passed: bool) -> None:
    """What it says of all processes together; without a word of it, no result."""
    assert results.faults("memcheck", log) == ("memcheck: faults", faults, passed)
    with pytest.raises(results.UNREADABLE):
        results.faults("memcheck", "7 passed")


def test_a_checker_runs_python(script: ModuleType, tmp_path: Path) -> None:
    checker = (sys.executable, "-c", "import subprocess, sys; exit(1 + subprocess.call(sys.argv[1:]))")
    assert run(script, tmp_path, "exit(4)", checker=checker) == [("some", "exited with code 5", False)]


def test_rows_of_a_drawing(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `tests/gpu/drawing.py`, of a smaller network and chain: a row for who can draw."""
    peer = tmp_path / "some_peer.py"
    peer.write_text(PEER)
    monkeypatch.setattr(drawing, "find_peer", lambda name: peer)
    monkeypatch.setattr(drawing, "IMAGES", 2)
    small = {"channels": 4, "multipliers": [1], "blocks": 1, "attention": []}
    tables = {
        "network": small,
        "schedule": {"timesteps": 21},
        "training": {"threads": 1},
        "data": {"image_size": "4x4"},
    }
    config = preset("cifar10").config.updated(tables)
    lines = [json.dumps(line) for line in drawing.drawings(config, ["runs", "fails"])]
    ours, other = results.drawing_rows("\n".join(lines))
    for (name, result, passed), who, what in ((ours, "tinyddpm cupy", "numpy "), (other, "torch runs", "by its twin")):
        assert (name, passed) == (f"drawing: {who}", True)
        assert re.match(rf"2 images in 21 steps: \d+\.\d\d s; {what}", result)


def test_rows_of_a_training_and_its_evaluation(script: ModuleType, tmp_path: Path) -> None:
    """From what `tinyddpm train` has left, and from what `tinyddpm evaluate --json` prints."""
    run = tmp_path / "run"
    options = ["--steps", "20", "--batch-size", "8", "--set", "network.width=8", "--threads", "1", "--log-every", "10"]
    done = CliRunner().invoke(main, ["train", "--data", "moons", "--out", str(run), *options])
    assert done.exit_code == 0, done.output
    ((name, result, passed),) = results.training_rows("training", run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    held_out = [line["validation_loss"] for line in lines if "validation_loss" in line][-1]
    assert (name, passed) == ("training", True)
    assert result.startswith("20 steps, loss ")
    assert f"held out {held_out:.4f}" in result
    options = ["--count", "10", "--metrics", "frechet", "--split", "train", "--json"]
    done = CliRunner().invoke(main, ["evaluate", str(run), *options])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    distance, floor = found["drawn"][0]["numbers"]["frechet"], found["floor"]["numbers"]["frechet"]
    assert results.evaluation_rows("evaluation", found) == [
        ("evaluation", f"frechet {distance:.4g} ({floor:.4g}); 10 drawn, {found['compared']} real", True)
    ]
