"""What happens to runs in terminals, pipes and folders: nothing is lost, and what went wrong is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers.command_line import MOONS, NARROW, SIX_STEPS, trained
from tinyddpm.cli import _note, main
from tinyddpm.errors import TinyDDPMWarning
from tinyddpm.model.checkpoint import read_checkpoint_header


@pytest.fixture(params=["a pipe without a reader", "a full disk", "closed"])
def nowhere(request: pytest.FixtureRequest) -> str:
    """What a shell puts after `2>` and `>` for an output that takes nothing."""
    if request.param == "a full disk" and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    return {"a full disk": "/dev/full", "closed": "&-"}.get(request.param, " >(exit)")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run whose data have no test split, which `nll` tells in a note."""
    return trained(tmp_path_factory.mktemp("accidents") / "digits", *SIX_STEPS, *NARROW)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a shell's redirections")
def test_output_that_takes_nothing_ends_no_run(nowhere: str, tmp_path: Path) -> None:
    """It trains to its end, and every picture is drawn."""
    command = f'"$@" 2>{nowhere} >{nowhere}'
    train = [sys.executable, "-m", "tinyddpm", "train", *MOONS, *SIX_STEPS, "--out", str(tmp_path / "run")]
    subprocess.run(["bash", "-c", command, "bash", *train], check=False)
    assert read_checkpoint_header(tmp_path / "run" / "checkpoint.h5").step == 6
    assert (tmp_path / "run" / "denoising.gif").is_file()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a shell's redirections")
@pytest.mark.parametrize("output", [">", "2>"])
@pytest.mark.parametrize("command", ["schedule linear", "nll RUN --count 2", "plot RUN"])
def test_a_closed_output_ends_no_command(output: str, command: str, digits: str) -> None:
    """Nothing is printed to it, and all to the other one."""
    words = [sys.executable, "-m", "tinyddpm", *command.replace("RUN", digits).split()]
    done = subprocess.run(["bash", "-c", f'"$@" {output}&-', "bash", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) == (output == "2>")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_note_for_a_full_disk_is_dropped_and_the_result_told(digits: str) -> None:
    words = [sys.executable, "-m", "tinyddpm", "nll", digits, "--count", "2", "--json"]
    done = subprocess.run(["bash", "-c", '"$@" 2>/dev/full', "bash", *words], capture_output=True, text=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)["split"] == "held-out"


def test_a_note_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Broken())
    with warnings.catch_warnings(action="always"):
        warnings.showwarning = _note
        warnings.warn("a caption is cut", TinyDDPMWarning, stacklevel=1)


INTERRUPTED = """
import os, runpy, signal, sys
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    def find_spec(self, name, *given):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("tinyddpm", run_name="__main__")
"""
"""The command line, interrupted while it is imported."""


@pytest.mark.skipif(os.name != "posix", reason="a signal to itself")
def test_ctrl_c_while_the_command_line_is_imported_is_no_traceback() -> None:
    """It dies of the signal: a shell calls that 130."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


WHERE = ["tinyddpm.registry.load", "tinyddpm.cli.ranks.join"]
"""Places before the command is imported, and before ranks have joined."""


def interrupted(*given: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", WHERE)
def test_ctrl_c_in_a_command_is_one_line(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, interrupted)
    result = CliRunner().invoke(main, ["train", "--dry-run"])
    assert (result.exit_code, result.output) == (130, "interrupted\n")


def test_ctrl_c_in_a_command_that_another_one_calls_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a figure of the book."""
    pytest.importorskip("markdown_it")
    monkeypatch.setattr("tinyddpm.figures.style.check_figure", interrupted)
    result = CliRunner().invoke(main, ["book"])
    assert (result.exit_code, result.output.split()) == (130, ["interrupted"])


@pytest.mark.parametrize(("rank", "says"), [("0", "interrupted\n"), ("1", "")])
@pytest.mark.parametrize("where", WHERE)
def test_ctrl_c_before_ranks_have_joined_is_one_line_and_kills(
    where: str, rank: str, says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of one that only exits, the launcher would not tell the other ranks."""
    for name, value in {"PMI_RANK": rank, "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(where, interrupted)
    raised: list[int] = []
    monkeypatch.setattr("signal.raise_signal", raised.append)
    before = signal.getsignal(signal.SIGINT)
    try:
        result = CliRunner().invoke(main, ["train", "--dry-run"])
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
    assert raised == [signal.SIGINT]
    assert (result.output, capfd.readouterr().err) == (says, "")
