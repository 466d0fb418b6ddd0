"""What a process learns of its ranks, and how work is cut: without any other process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.distributed.join import join
from tinyddpm.distributed.launch import Launch, launched
from tinyddpm.errors import ConfigError

ENVIRONMENTS = [
    ({}, Launch()),
    ({"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"}, Launch("mpiexec", 1, 4, 1)),
    (
        {
            "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "SLURM_PROCID": "0",
        },
        Launch("Open MPI's mpirun", 5, 8, 1),
    ),
    (
        {
            "SLURM_PROCID": "6", "SLURM_STEP_NUM_TASKS": "11", "SLURM_LOCALID": "2",
        },
        Launch("srun", 6, 11, 2),
    ),
    (
        {
            "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "none",
            "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2",
        },
        Launch("torchrun", 3, 4, 1),
    ),
    ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Launch()),  # of another tool
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Launch()),  # a batch script, which is one process
    ({"PMI_RANK": "none", "PMI_SIZE": "4"}, Launch()),
]  # fmt: skip


@pytest.mark.parametrize(("environment", "expected"), ENVIRONMENTS)
def test_launchers_are_known_by_their_variables(environment: dict[str, str], expected: Launch) -> None:
    assert launched(environment) == expected


def test_nobody_else_takes_no_mpi() -> None:
    assert join("auto", Launch()) is ALONE
    assert join("none", Launch("mpiexec", 1, 2)) is ALONE
    assert ALONE.speaks
    with pytest.raises(ConfigError, match="--distributed 'gloo': choose from auto, mpi, torch, nccl, none"):
        join("gloo", Launch())
    with pytest.raises(ConfigError, match="--distributed torch is for ranks that torchrun starts: run torchrun "):
        join("torch", Launch("mpiexec", 0, 2))


@given(st.integers(0, 50), st.integers(1, 9))
def test_parts_make_up_the_whole(n: int, size: int) -> None:
    """For 0 to 50 things and 1 to 9 ranks: each thing once, in order; no two parts differ by more than one."""
    cut = Group(0, size).parts(n)
    assert len(cut) == size
    assert [i for part in cut for i in range(n)[part]] == list(range(n))
    lengths = [part.stop - part.start for part in cut]
    assert max(lengths) - min(lengths) <= 1


class Three(Group):
    """Three ranks, of which the others have given these."""

    def __init__(self, *others: dict[str, object]) -> None:
        super().__init__(0, 3)
        self.others = others

    def gather(self, value: object) -> list[object]:
        return [value, *self.others]


def test_ranks_that_differ_are_refused() -> None:
    own = {"versions": {"numpy": "2.4"}, "settings": {"seed": 0, "training": {"steps": 9, "clip": 1.0}}}
    Three(own, own).same(own)
    other = {**own, "settings": {"seed": 0, "training": {"steps": 9, "clip": 0.5}}}
    with pytest.raises(
        ConfigError, match=r"rank 2 has other settings than rank 0 \(training.clip 0.5 instead of 1.0\)"
    ):
        Three(own, other).same(own)
    with pytest.raises(ConfigError, match=r"rank 1 has other versions than rank 0 \(numpy 2.3 instead of 2.4\)"):
        Three({**own, "versions": {"numpy": "2.3"}}, other).same(own)
    with pytest.raises(ConfigError, match=r"rank 1 has other data than rank 0 \({} instead of {'classes': None}\)"):
        Three({"data": {}}, {}).same({"data": {"classes": None}})
