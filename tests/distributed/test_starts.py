"""Ranks that are started wrongly: one line before anything is written, and all end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.ranks import started

pytestmark = pytest.mark.slow

MOONS = ["--data", "moons", "--steps", "4", "--timesteps", "10", "--batch-size", "12"]


def refused(folder: Path, ranks: int, what: str, rank: int, *arguments: object) -> tuple[str, ...]:
    """Return the errors of a start with something wrong in one rank, or in all for -1. Nothing is written."""
    processes = folder / "processes"
    processes.mkdir()
    run = folder / "run"
    done = started(
        ranks, "helpers.faulty_rank", processes, what, rank, 0, "train", *arguments, "--out", run, timeout=60
    )
    assert done.returncode == 1, done
    assert not run.exists()
    assert not done.stdout
    for path in processes.iterdir():
        assert not Path("/proc", path.read_text()).exists()
    return tuple(done.stderr.splitlines())


@pytest.mark.parametrize(
    ("what", "rank", "says"),
    [
        ("another version", 1, "rank 1 has other versions than rank 0 (numpy 0.1 instead of "),
        (
            "another learning rate",
            2,
            "rank 2 has other settings than rank 0 (training.learning_rate 0.25 instead of 0.001): start all ranks",
        ),
        ("no mpi4py", -1, "ranks need MPI (import of mpi4py halted; None in sys.modules): run pip install "),
    ],
)
def test_a_wrong_start_is_one_line(tmp_path: Path, what: str, rank: int, says: str) -> None:
    (line,) = refused(tmp_path, 3, what, rank, *MOONS)
    assert line.startswith(f"Error: {says}")


def test_a_batch_has_a_sample_for_each_rank(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, 3, "none", 0, *MOONS, "--batch-size", 2)
    assert line.startswith("Error: a batch of 2 is too small for 3 ranks: set --batch-size to at least 3, or start ")


@pytest.mark.parametrize("there", [True, False], ids=["of other content", "missing"])
def test_data_that_differ_by_machine(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """The ranks' folders have a file of the same name; in that of rank 1 one value is another, or there is none."""
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    images = rng.integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    np.save("images.npy", images)
    if there:
        images[17, 3, 4, 0] ^= 1
        np.save("other/images.npy", images)
    small = ["--timesteps", 30, "--batch-size", 4, "--set", "network.channels=8"]
    (line,) = refused(tmp_path, 2, "another folder", 1, "--data", "images.npy", *small)
    expected = "rank 1 has other data than rank 0 (" if there else "rank 1 (process "
    assert line.startswith(f"Error: {expected}")
    assert there or "gave up: " in line


@pytest.mark.parametrize(
    "variables",
    [
        ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ],
)
def test_ranks_that_do_not_see_each_other(tmp_path: Path, variables: tuple[str, str, str]) -> None:
    """As when another MPI's launcher starts them: each is alone in a world of its own."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: run pip install 'tinyddpm[mpi]'")
    command = [sys.executable, "-m", "tinyddpm", "train", *MOONS, "--out", str(tmp_path / "run")]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **dict(zip(variables, (str(rank), "2", str(rank)), strict=True))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    first, other = (rank.communicate(timeout=60)[0] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [1, 1]
    (line,) = first.splitlines()
    assert " started 2 ranks, and MPI sees 1: start them by the mpiexec of the MPI that mpi4py uses (" in line
    assert not other
    assert not (tmp_path / "run").exists()


def test_a_rank_that_cannot_join_ends_those_that_wait_for_it(tmp_path: Path) -> None:
    """They wait inside MPI, where nothing of Python's runs."""
    (line,) = refused(tmp_path, 2, "no mpi4py", 1, *MOONS)
    here = f"rank 0 (process {(tmp_path / 'processes' / 'process-0').read_text()} on {os.uname().nodename})"
    assert line.startswith(f"Error: {here} has waited 2 s for rank 1, which has failed, hangs or ")


@pytest.mark.parametrize(
    ("what", "says"),
    [("an unknown option", "No such option '--unknown'"), ("an unknown variable", "unknown environment variable")],
)
def test_what_one_rank_is_given_is_told_by_the_first(tmp_path: Path, what: str, says: str) -> None:
    """That rank fails before it would have joined: it joins to tell it."""
    (line,) = refused(tmp_path, 2, what, 1, *MOONS)
    who = f"rank 1 (process {(tmp_path / 'processes' / 'process-1').read_text()} on {os.uname().nodename})"
    assert line.startswith(f"Error: {who} gave up: {says}")
