"""What happens to runs in terminals, pipes and folders: nothing is lost, and what went wrong is said."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from helpers.command_line import MOONS, SIX_STEPS
from tinyddpm.cli import _note
from tinyddpm.errors import TinyDDPMWarning
from tinyddpm.model.checkpoint import read_checkpoint_header


@pytest.fixture(params=["a pipe without a reader", "a full disk", "closed"])
def nowhere(request: pytest.FixtureRequest) -> str:
    """What a shell puts after `2>` and `>` for an output that takes nothing."""
    if request.param == "a full disk" and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    return {"a full disk": "/dev/full", "closed": "&-"}.get(request.param, " >(exit)")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a shell's redirections")
def test_output_that_takes_nothing_ends_no_run(nowhere: str, tmp_path: Path) -> None:
    """It trains to its end, and every picture is drawn."""
    command = f'"$@" 2>{nowhere} >{nowhere}'
    train = [sys.executable, "-m", "tinyddpm", "train", *MOONS, *SIX_STEPS, "--out", str(tmp_path / "run")]
    subprocess.run(["bash", "-c", command, "bash", *train], check=False)
    assert read_checkpoint_header(tmp_path / "run" / "checkpoint.h5").step == 6
    assert (tmp_path / "run" / "denoising.gif").is_file()


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
