"""What befalls one rank of a run, and what becomes of the others: real processes, started by mpiexec."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from helpers.command_line import MOONS, says
from helpers.ranks import started
from helpers.runs import loaded

SMALL = [
    *MOONS, "--steps", "16", "--timesteps", "10", "--batch-size", "12", "--sample-count", "4",
    "--set", "training.save_every=4", "--set", "training.log_every=4", "--threads", "1",
]  # fmt: skip

USUAL, LENIENT = "mpiexec", "mpiexec.gforker"
"""MPICH's launchers. The first one kills all when one of them dies; the other sends the others signals, which they
ignore here: they end by themselves, as under srun."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")]


class Ended:
    """A run whose rank `rank` had something befall it when it began step `at`."""

    def __init__(
        self, folder: Path, ranks: int, fault: str, rank: int = 0, *more: object, launcher: str = USUAL, at: int = 11
    ) -> None:
        self.run, self.processes = folder / "run", folder / "processes"
        self.processes.mkdir(exist_ok=True)
        how = more if "--resume" in more else (*SMALL, "--out", self.run, *more)
        self.done: subprocess.CompletedProcess[str] = started(
            ranks, "helpers.faulty_rank", self.processes, fault, rank, at, "train", *how, launcher=launcher, timeout=60
        )
        lines = self.done.stderr.splitlines()
        self.errors = [line for line in lines if line.startswith("Error: ")]
        self.strange = [line for line in lines if "MPICH" in line or "Traceback" in line or "Exception" in line]

    def process(self, rank: int) -> str:
        """Return the number of a rank's process."""
        return (self.processes / f"process-{rank}").read_text()

    @property
    def saved(self) -> int:
        """The step of the checkpoint, all of which is read."""
        return loaded(self.run).step

    def is_gone(self) -> bool:
        """Return whether all processes have ended, soon after the launcher has."""
        until = time.monotonic() + 10
        numbers = [path.read_text() for path in self.processes.iterdir()]
        while left := [number for number in numbers if os.path.exists(f"/proc/{number}")]:
            if time.monotonic() > until:
                raise AssertionError(f"processes {left} are left")
            time.sleep(0.01)
        return True


@pytest.mark.parametrize(
    ("ranks", "fault", "rank", "launcher", "says", "saved"),
    [
        (2, "killed", 1, LENIENT, "rank 1 ({}) died; all 10 steps are saved: go on with --resume ", 10),
        (3, "killed", 0, LENIENT, "rank 0 ({}) died; go on from the last save with --resume ", 8),
        (
            3,
            "stopped",
            1,
            USUAL,
            "rank 1 ({}) has given no sign of life for 3 s; all 10 steps are saved: go on with ",
            10,
        ),
        (2, "stopped", 0, USUAL, "rank 0 ({}) has given no sign of life for 3 s; go on from the last save with ", 8),
        (3, "out of memory", 2, USUAL, "rank 2 ({}) gave up: memory does not suffice: Unable to allocate 40.0 GiB", 10),
        (
            2,
            "out of memory",
            0,
            USUAL,
            "memory does not suffice: Unable to allocate 40.0 GiB for an array; all 10 steps are saved: go on with ",
            10,
        ),
        (2, "full disk", 0, USUAL, "cannot write ", 12),
        (2, "full disk at a save", 0, USUAL, "cannot write ", 8),
        (2, "NaN", 1, USUAL, "the loss of step 11 is nan and its gradient's norm nan: the last good checkpoint is ", 8),
    ],
)
def test_all_end_when_one_does_and_the_first_that_is_left_says_why(
    tmp_path: Path, ranks: int, fault: str, rank: int, launcher: str, says: str, saved: int
) -> None:
    ended = Ended(tmp_path, ranks, fault, rank, launcher=launcher)
    assert ended.is_gone()
    who = f"process {ended.process(rank)} on {os.uname().nodename}"
    assert len(ended.errors) == 1, ended.done
    assert ended.errors[0].startswith("Error: " + says.format(who))
    assert not ended.strange
    # A launcher may have a code of its own: by what a rank died, or how it ended one that was stopped.
    assert ended.done.returncode == 1 or (ended.done.returncode and (launcher == LENIENT or fault == "stopped"))
    assert ended.saved == saved


def test_a_bug_in_one_rank_is_shown_and_told_by_the_first(tmp_path: Path) -> None:
    ended = Ended(tmp_path, 2, "a bug", 1)
    assert ended.is_gone()
    (line,) = ended.errors
    assert f"rank 1 (process {ended.process(1)} on " in line
    assert "gave up: ZeroDivisionError: a bug of somebody's network; all 10 steps are saved" in line
    assert len([line for line in ended.strange if "Traceback" in line]) == 1
    assert ended.saved == 10


def test_where_mpiexec_ends_all_at_once_the_last_save_is_whole(tmp_path: Path) -> None:
    ended = Ended(tmp_path, 2, "killed", 1)
    assert ended.is_gone()
    assert ended.saved in (8, 10)  # the last one, or what rank 0 had the time to save


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a run that nothing befell, by one process of two threads: they have the bits of two ranks."""
    run = tmp_path_factory.mktemp("straight") / "run"
    says("train", *SMALL, "--threads", "2", "--out", run)
    return weights(run)


def weights(run: Path) -> bytes:
    found = loaded(run)
    assert found.step == 16
    return found.weights.tobytes() + found.ema.tobytes()


@pytest.mark.parametrize(
    ("fault", "rank", "name", "code", "resumed_by"),
    [
        ("Ctrl-C to mpiexec", 0, "SIGINT", 130, 1),
        ("SIGTERM to mpiexec", 0, "SIGTERM", 143, 1),
        ("SIGTERM", 1, "SIGTERM", 143, 2),
    ],
)
def test_a_signal_saves_once_and_ends_all_and_the_run_goes_on_bit_for_bit(
    tmp_path: Path, straight: bytes, fault: str, rank: int, name: str, code: int, resumed_by: int
) -> None:
    """By one process, which takes two threads then, or by two ranks."""
    ended = Ended(tmp_path, 2, fault, rank)
    assert ended.is_gone()
    assert ended.done.returncode == code
    said = [line for line in ended.done.stdout.splitlines() if "all is saved" in line]
    assert said == [
        f"stopped at step 11 by {name}; all is saved, go on with: tinyddpm train --resume {tmp_path / 'run'}"
    ]
    assert not ended.errors
    assert not ended.strange
    assert ended.saved == 11
    if resumed_by == 1:
        says("train", "--resume", tmp_path / "run")
    else:
        resumed = Ended(tmp_path, 2, "none", 0, "--resume", tmp_path / "run")
        assert resumed.done.returncode == 0, resumed.done
    assert weights(tmp_path / "run") == straight


def test_a_signal_in_the_last_step_to_one_rank_ends_all_before_the_last_pictures(
    tmp_path: Path, straight: bytes
) -> None:
    ended = Ended(tmp_path, 2, "SIGTERM", 1, at=16)
    assert ended.is_gone()
    assert ended.done.returncode == 143
    assert "stopped at step 16 by SIGTERM; all is saved, go on with: tinyddpm train --resume" in ended.done.stdout
    assert not ended.errors
    assert weights(ended.run) == straight


def test_a_job_that_is_stopped_as_a_whole_goes_on(tmp_path: Path, straight: bytes) -> None:
    """For longer than a rank that is silent is waited for."""
    ended = Ended(tmp_path, 2, "all paused", 1)
    assert ended.is_gone()
    assert ended.done.returncode == 0, ended.done
    assert not ended.errors
    assert weights(ended.run) == straight
