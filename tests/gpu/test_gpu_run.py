"""The script `tests/gpu/run`, as far as it goes without a GPU: its parts, in a row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier
from types import ModuleType
from typing import Any

import pytest

from gpu.conftest import SCRIPT, one_line
from tinyddpm.bench.peers import find_peer, load_peer
from tinyddpm.bench.task import make_task
from tinyddpm.model.config import preset

pytestmark = pytest.mark.slow


def test_a_backend_that_cannot_be_used_is_one_line(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "DESCRIBE", "raise ValueError('the card is too old')")
    with pytest.raises(SystemExit) as raised:
        script.machine(Path(sys.executable), set())
    assert one_line(raised) == "tests/gpu/run: the backend cannot be used: ValueError: the card is too old"


@pytest.mark.parametrize(("optional", "workers"), [(set(), 1), ({"xdist"}, 8)])
def test_machine(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, optional: set[str], workers: int
) -> None:
    """What it prints last is read; tests are shared where pytest-xdist is there."""
    monkeypatch.setattr(script.os, "cpu_count", lambda: 100)
    monkeypatch.setattr(script, "DESCRIBE", 'print(\'noise\'); print(\'["cupy 14", true, "/c.json", "no font"]\')')
    python = Path(sys.executable)
    assert script.machine(python, optional) == (python, "cupy 14", True, Path("/c.json"), "no font", workers)


def test_cudnn_is_hidden_from_all_processes(script: ModuleType, path: Path, tmp_path: Path) -> None:
    """Whatever else the path has stays."""
    code = (
        "import subprocess, sys, cupy; from tinyddpm.ops.cuda.cudnn_frontend import load_cudnn;"
        "print(load_cudnn() is not None, flush=True);"
        "sys.argv[1:] and subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    )
    for variables, seen in (({}, "True\nTrue\n"), (script.without_cudnn(tmp_path), "False\nFalse\n")):
        command = [sys.executable, "-c", code, code]
        done = subprocess.run(command, env=os.environ | variables, check=True, capture_output=True, text=True)
        assert done.stdout == seen


@pytest.fixture
def sanitizer(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compute-sanitizer in the CUDA toolkit's folder."""
    monkeypatch.setattr(script, "CUDA", tmp_path / "cuda")
    file = tmp_path / "cuda" / "compute-sanitizer"
    file.parent.mkdir()
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def test_what_the_parts_run(script: ModuleType, tmp_path: Path, sanitizer: Path) -> None:
    """Tests without cuDNN first, on several processes; variants of PyTorch in their precision; each in ten minutes."""
    here = script.Machine(Path(sys.executable), "", True, tmp_path / "none", "", 5)
    found = script.jobs(here, tmp_path, compiled=True)
    assert list(found) == list(script.LIMITS)
    assert max(script.LIMITS.values()) < 600
    assert list(found)[:2] == ["tests", "tests-cudnn"]
    assert list(found["tests"].environment) == ["PYTHONPATH"]
    assert not found["tests-cudnn"].environment
    for part in ("tests", "tests-cudnn", "memcheck", "racecheck"):
        arguments = found[part].arguments
        assert arguments[arguments.index("-n") + 1] == 5
    for part in ("memcheck", "racecheck"):
        assert found[part].checker[:3] == (str(sanitizer), "--tool", part)
    for part, variants in script.VARIANTS.items():
        arguments = found[part].arguments
        assert arguments[arguments.index("--precision") + 1] == part.split("-")[1]
        assert variants == tuple(arguments[arguments.index("--variants") + 1].split(",") if variants else ())
    alone = script.jobs(here._replace(workers=1), tmp_path, compiled=False)
    assert "-n" not in alone["tests"].arguments
    assert not any("compile" in str(job.arguments) for job in alone.values() if not isinstance(job, str))


def test_what_is_not_there_is_left_out_and_said(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "CUDA", tmp_path / "cuda")
    monkeypatch.setenv("PATH", str(tmp_path))
    here = script.Machine(Path(sys.executable), "", False, tmp_path / "none", "no font", 1)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "samples.png").touch()
    found = script.jobs(here, tmp_path, compiled=False)
    sanitizer = "there is no compute-sanitizer, which comes with the CUDA toolkit"
    assert {part: job for part, job in found.items() if isinstance(job, str)} == {
        "tests-cudnn": "nvidia-cudnn-frontend is not installed",
        "cifar10-bf16-graphs": "torch.compile is left out",
        "training": f"{tmp_path / 'training'} is complete",
        "emoji": "no font",
        "emoji-evaluation": "no font",
        "memcheck": sanitizer,
        "racecheck": sanitizer,
    }


def test_variants_are_the_peers(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is one of those that the Torch peer has on a GPU."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    task = make_task(preset("cifar10").config.updated({"backend": "cupy"}), "cifar10")
    there = load_peer(find_peer("torch")).variants(task, True)
    assert {variant for variants in script.VARIANTS.values() for variant in variants} <= {*there}


DRIVER = """
import runpy, sys
from pathlib import Path
found = runpy.run_path(sys.argv.pop(1), run_name="gpu_run")
Row, Job = found["Row"], found["Job"]

def job(part, code):
    return Job(["-c", code], None, lambda: [Row(part, "done")])

def machine(python, optional):
    return found["Machine"](python, "a card", True, Path("none"), "", 1)

def jobs(here, out, compiled):
    return {
        **{part: job(part, "import os; print(os.environ['XDG_CACHE_HOME'])") for part in found["LIMITS"]},
        "tests-cudnn": job("tests-cudnn", "exit(5)"),
        "small-bf16": job("small-bf16", "import time; print('begun', flush=True); time.sleep(60)"),
        "memcheck": "there is no checker",
    }

main = found["main"]
main.__globals__.update(
    jobs=jobs,
    cuda_version=lambda: 13,
    environment=lambda cuda: Path(sys.executable),
    look_for_all=lambda python, cuda: set(),
    machine=machine,
)
main()
"""
"""The script, on parts of its own."""


def drive(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, str(SCRIPT), *options, "--out", str(out)]
    environment = os.environ | {"XDG_CACHE_HOME": "the user's"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def written(out: Path) -> list[tuple[str, str, bool]]:
    """Return the rows that have been written."""
    file = out / "rows.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [tuple(json.loads(line).values()) for line in lines]


MACHINE, TESTS = ("machine", "a card", True), ("tests", "done", True)


def test_all_parts_run_whatever_fails(tmp_path: Path) -> None:
    """The table names the part that failed, the exit code says so, and the next call's rows come after."""
    chosen = ["--only", "tests", "--only", "tests-cudnn", "--only", "training"]
    with drive(tmp_path, *chosen) as process:
        found, _ = process.communicate()
    cudnn = [("tests-cudnn", "done", True), ("tests-cudnn", "exited with code 5", False)]
    rows = [MACHINE, TESTS, *cudnn, ("training", "done", True)]
    assert written(tmp_path) == rows
    assert process.returncode == 1
    table = found.splitlines()[-len(rows) :]
    assert [line.split()[0] for line in table] == [name for name, *_ in rows]
    assert [line.endswith("  FAILED") for line in table] == [not passed for *_, passed in rows]
    with drive(tmp_path, "--only", "training", "--no-compile") as process:
        process.communicate()
    assert process.returncode == 0
    assert written(tmp_path) == [*rows, MACHINE, ("training", "done", True)]


def test_parts_run_in_the_order_named(tmp_path: Path) -> None:
    """Each once; one that needs what is not there says so, which is no failure. After each the archive is whole."""
    out, archive = tmp_path / "out", tmp_path / "elsewhere" / "found.tar.gz"
    (out / "training").mkdir(parents=True)
    (out / "training" / "checkpoint.h5").write_bytes(bytes(5 << 20))
    (out / "training" / "samples.png").write_text("pictures")
    chosen = [f"--only={part}" for part in ("training", "memcheck", "tests", "training")]
    with drive(out, *chosen, "--archive", str(archive)) as process:
        process.communicate()
    assert process.returncode == 0
    rows = [MACHINE, ("training", "done", True), ("memcheck", "left out: there is no checker", True), TESTS]
    assert written(out) == rows
    assert [path.name for path in archive.parent.iterdir()] == ["found.tar.gz"]
    with tarfile.open(archive) as files:
        assert sorted(files.getnames()) == [
            *("out/rows.jsonl", "out/tests.txt", "out/training.txt", "out/training/samples.png")
        ]
        assert files.extractfile("out/rows.jsonl").read() == (out / "rows.jsonl").read_bytes()


def test_what_measures_no_speed_runs_together(script: ModuleType, tmp_path: Path) -> None:
    """Each part of a lane after the one before it, beside those of other lanes; then the others, alone."""
    assert {part for lane in script.LANES for part in lane} == {*script.LIMITS} - {*script.VARIANTS, "drawing"}
    firsts = Barrier(len(script.LANES))

    def run(lane: list[str]) -> Iterator[Any]:
        firsts.wait(60)  # breaks if the lanes do not run beside each other
        for part in lane:
            yield script.Row(part, "done")

    rows = list(script.run_lanes(map(list, script.LANES), run))
    assert len(rows) == sum(map(len, script.LANES))
    for lane in script.LANES:
        assert [row.name for row in rows if row.name in lane] == list(lane)


def test_what_fails_beside_others_is_raised(script: ModuleType) -> None:
    """After the rows of the others."""

    def run(lane: list[str]) -> Iterator[Any]:
        if lane == ["training"]:
            raise KeyError("of the script")
        yield script.Row(*lane, "done")

    rows = script.run_lanes([["training"], ["tests"]], run)
    with pytest.raises(KeyError, match="of the script"):
        list(rows)


def test_parts_run_together_then_alone(tmp_path: Path) -> None:
    """Those that were not named do not run; one that fails hinders no other. What is cached together is not kept."""
    chosen = [f"--only={part}" for part in ("drawing", "training", "tests-cudnn", "memcheck", "tests")]
    with drive(tmp_path / "out", "--together", *chosen, "--archive", str(tmp_path / "found.tar.gz")) as process:
        process.communicate()
    assert process.returncode == 1
    found = written(tmp_path / "out")
    assert found[0] == MACHINE
    assert found[-1] == ("drawing", "done", True)
    assert sorted(found[1:-1]) == [
        ("memcheck", "left out: there is no checker", True),
        TESTS,
        ("tests-cudnn", "done", True),
        ("tests-cudnn", "exited with code 5", False),
        ("training", "done", True),
    ]
    with tarfile.open(tmp_path / "found.tar.gz") as files:
        assert files.extractfile("out/rows.jsonl").read() == (tmp_path / "out" / "rows.jsonl").read_bytes()
    cache = (tmp_path / "out" / "training.txt").read_text().strip()
    assert cache != "the user's"
    assert not Path(cache).exists()
    assert (tmp_path / "out" / "drawing.txt").read_text() == "the user's\n"


def test_parts_that_have_no_time_are_left_out(script: ModuleType, tmp_path: Path) -> None:
    with drive(tmp_path, "--limit", "20") as process:
        process.communicate()
    assert [(name, passed) for name, _, passed in written(tmp_path)[1:]] == [
        (part, part == "memcheck") for part in script.LIMITS
    ]
    assert {result for _, result, passed in written(tmp_path) if not passed} == {"left out: there is no time for it"}
    assert process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_what_was_found(tmp_path: Path, number: signal.Signals) -> None:
    """The part that runs tells what it has, no other follows, and the exit code says which signal it was."""
    with drive(tmp_path, "--only", "tests", "--only", "small-bf16", "--only", "training") as process:
        # What is sent to a Python that is only starting may pass it by.
        while not (log := tmp_path / "small-bf16.txt").exists() or not log.stat().st_size:
            assert process.poll() is None
            time.sleep(0.05)
        assert written(tmp_path) == [MACHINE, TESTS]
        process.send_signal(number)
        found, _ = process.communicate()
    assert process.returncode == 128 + number
    *first, told, (name, result, passed) = written(tmp_path)
    assert first == [MACHINE, TESTS]
    assert told == ("small-bf16", "done", True)
    assert (name, passed) == ("small-bf16", False)
    assert result.startswith("stopped after ")
    assert "stopped after" in found.splitlines()[-1]
