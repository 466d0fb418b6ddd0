"""What a rank says, and whom it tells, before it has joined the others."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from tinyddpm.cli import main
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.distributed.launch import Launch
from tinyddpm.errors import ConfigError

TRAIN = ["train", "--dry-run"]


@pytest.fixture(autouse=True)
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the second of two ranks of a machine."""
    for name, value in {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError("4 GiB"), r"Error: rank 1 \(process \d+ on .*\): memory does not suffice: 4 GiB: .*\n"),
        (ConfigError("ranks need MPI"), ""),
    ],
)
def test_what_befell_it_alone_it_says_itself(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What all ranks of a machine lack, the first one says."""

    def fails(*_: object) -> Group:
        raise error

    monkeypatch.setattr("tinyddpm.cli.ranks.join", fails)
    result = CliRunner().invoke(main, TRAIN)
    assert (result.exit_code, result.output) == (1, "")
    assert re.fullmatch(says, capfd.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "code", "joined"),
    [
        ([*TRAIN, "--unknown"], 1, ["auto"]),
        ([*TRAIN, "--distributed", "mpi", "--steps", "three"], 1, ["mpi"]),
        ([*TRAIN, "--distributed", "none", "--unknown"], 2, ["none"]),
        (["info", "--unknown"], 2, []),
        ([*TRAIN, "--help"], 0, []),
    ],
)
def test_a_rank_that_cannot_read_its_options_joins_the_others_to_tell_them(
    arguments: list[str], code: int, joined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others do wait for it: not in a run of its own, nor in a command that none shares."""
    kinds: list[str] = []

    class Two(Group):
        def leave(self, failure: str | None = None) -> None:
            assert failure

    def join(kind: str, launch: Launch) -> Group:
        kinds.append(kind)
        return ALONE if kind == "none" else Two(launch.rank, launch.size)

    monkeypatch.setattr("tinyddpm.cli.ranks.join", join)
    assert CliRunner().invoke(main, arguments).exit_code == code
    assert kinds == joined
