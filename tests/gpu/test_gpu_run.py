"""The script `tests/gpu/run`, as far as it goes without a GPU: what it needs, and its parts in a row."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from gpu.conftest import SCRIPT

pytestmark = pytest.mark.slow


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


def one_line(raised: pytest.ExceptionInfo[SystemExit]) -> str:
    line = str(raised.value)
    assert line.startswith("tests/gpu/run: ")
    assert "\n" not in line
    return line


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules come before those that are installed: a CuPy, a cuDNN, and a Torch that is soon there."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "cupy.py").write_text("")
    (folder / "torch.py").write_text("")
    (folder / "cudnn.py").write_text("def backend_version(): return 92801\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def hide(path: Path, module: str) -> None:
    (path / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module named', name={module!r})")


def test_all_that_is_imported_everywhere_is_looked_for(script: ModuleType) -> None:
    project = tomllib.loads((script.ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}
    assert names <= set(script.MODULES.values())


def test_where_all_is_there_it_is_silent(script: ModuleType, path: Path) -> None:
    assert "cudnn" in script.look_for_all(Path(sys.executable), 13)
    hide(path, "cudnn")
    assert "cudnn" not in script.look_for_all(Path(sys.executable), 13)


def test_what_is_lacking_is_named_in_one_line(script: ModuleType, path: Path) -> None:
    """Which packages, why one that is there cannot be imported, and what to do with a network and without."""
    hide(path, "array_api_strict")
    hide(path, "cudnn")
    (path / "h5py.py").write_text("raise ImportError('libhdf5.so.310:\\n not found')")
    (path / "cupy.py").write_text("import no_such_module")
    with pytest.raises(SystemExit) as raised:
        script.look_for_all(Path(sys.executable), 12)
    line = one_line(raised)
    cupy = "cupy-cuda12x (No module named 'no_such_module')"
    assert f"{sys.executable} lacks h5py (libhdf5.so.310: not found), {cupy}, array-api-strict. " in line
    wanted = "'h5py>=3.11' 'cupy-cuda12x[ctk]>=14' 'array-api-strict>=2.3'"
    assert f"With a network, run `{sys.executable} -m pip install {wanted}`. " in line
    version = f"--python-version {sys.version_info.major}.{sys.version_info.minor} "
    assert version in line
    assert f"-d wheels {wanted} 'nvidia-cudnn-frontend>=1.23,<1.29'` in this repository" in line
    assert f"run here `{sys.executable} -m pip install --no-index --no-deps --target site wheels/*.whl && " in line
    assert "pip wheel" not in line
    assert "entry point" not in line


def test_entry_points_that_are_not_registered_are_lacking(
    script: ModuleType, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the package's metadata are of an older version."""
    text = (script.ROOT / "pyproject.toml").read_text()
    backends = '[project.entry-points."tinyddpm.backends"]\n'
    (tmp_path / "pyproject.toml").write_text(text.replace(backends, f'{backends}abacus = "tinyddpm:Abacus"\n'))
    monkeypatch.setattr(script, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as raised:
        script.look_for_all(Path(sys.executable), 13)
    line = one_line(raised)
    assert re.search(r" lacks 1 of this package's \d+ entry points, such as tinyddpm.backends:abacus\. ", line)
    assert f"With a network, run `{sys.executable} -m pip install --no-deps -e {tmp_path}`. " in line
    assert "first run `pip wheel --no-deps -w wheels .` in this repository" in line


def test_a_bare_python_lacks_everything(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(SystemExit) as raised:
        script.look_for_all(bare, 13)
    line = one_line(raised)
    packages = ", ".join(script.MODULES.values()).replace("cupy", "cupy-cuda13x")
    count = re.search(rf"^tests/gpu/run: {bare} lacks {packages}, (\d+) of this package's (\d+) entry points", line)
    assert count is not None
    assert count[1] == count[2]


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
    monkeypatch.setattr(script, "DESCRIBE", "print('noise'); print('[\"cupy 14\", true, \"/c.json\"]')")
    python = Path(sys.executable)
    assert script.machine(python, optional) == (python, "cupy 14", True, Path("/c.json"), workers)


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


def test_what_the_parts_run(script: ModuleType, tmp_path: Path) -> None:
    """Tests without cuDNN before those with it, on several processes; torch.compile once; each in ten minutes."""
    here = script.Machine(Path(sys.executable), "", True, tmp_path / "none", 5)
    found = script.jobs(here, tmp_path, compiled=True)
    assert list(found) == list(script.LIMITS)
    assert max(script.LIMITS.values()) < 600
    assert list(found)[:2] == ["tests", "tests-cudnn"]
    assert list(found["tests"].environment) == ["PYTHONPATH"]
    assert not found["tests-cudnn"].environment
    for part in ("tests", "tests-cudnn"):
        arguments = found[part].arguments
        assert arguments[arguments.index("-n") + 1] == 5
    assert [part for part, job in found.items() if "--compile" in job.arguments] == ["cifar10-bf16"]
    alone = script.jobs(here._replace(workers=1), tmp_path, compiled=False)
    assert "-n" not in alone["tests"].arguments
    assert "--compile" not in alone["cifar10-bf16"].arguments


DRIVER = """
import runpy, sys
from pathlib import Path
found = runpy.run_path(sys.argv.pop(1), run_name="gpu_run")
Row, Job = found["Row"], found["Job"]

def job(part, code):
    return Job(["-c", code], None, lambda: [Row(part, "done")])

def machine(python, optional):
    return found["Machine"](python, "a card", "no-cudnn" not in sys.argv[-1], Path("none"), 1)

def jobs(here, out, compiled):
    return {
        "tests": job("tests", ""),
        "tests-cudnn": job("tests-cudnn", "exit(5)"),
        "small-bf16": job("small-bf16", "import time; print('begun', flush=True); time.sleep(60)"),
        "cifar10-bf16": job("cifar10-bf16", f"print({compiled})"),
        "cifar10-tf32": job("cifar10-tf32", ""),
        "training": job("training", ""),
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
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


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


def test_without_cudnn_its_half_is_left_out(tmp_path: Path) -> None:
    with drive(tmp_path / "no-cudnn", "--only", "tests-cudnn") as process:
        process.communicate()
    reason = "left out: nvidia-cudnn-frontend is not installed"
    assert written(tmp_path / "no-cudnn") == [MACHINE, ("tests-cudnn", reason, True)]
    assert process.returncode == 0


def test_parts_that_have_no_time_are_left_out(tmp_path: Path) -> None:
    with drive(tmp_path, "--limit", "20") as process:
        process.communicate()
    assert [(result, passed) for _, result, passed in written(tmp_path)[1:]] == 6 * [
        ("left out: there is no time for it", False)
    ]
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
