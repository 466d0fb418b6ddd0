"""How a process learns from its launcher that it is one of several ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

LAUNCHERS = {
    "Open MPI's mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}
"""Environment variables of each launcher: a process's rank, the number of ranks, and its rank on its machine.

torchrun comes before srun, which may start it on each machine. Slurm sets the number of a step's tasks only within
srun; a batch script, which is one process, has that of the job.
"""


@dataclass(frozen=True)
class Launch:
    """A process as its launcher describes it: the launcher, rank, number of ranks, and rank on its machine."""

    by: str = ""
    rank: int = 0
    size: int = 1
    local_rank: int = 0


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return the description by the launcher that started this process; that of a single rank if none did."""
    for by, names in LAUNCHERS.items():
        rank, size, local_rank = (environment.get(name, "") for name in names)
        if rank.isdecimal() and size.isdecimal():
            if by == "torchrun" and "TORCHELASTIC_RUN_ID" not in environment:  # other tools set RANK too
                continue
            return Launch(by, int(rank), int(size), int(local_rank) if local_rank.isdecimal() else 0)
    return Launch()


def own_gpu(launch: Launch, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of a process's GPU among those that it sees, from its rank on the machine."""
    given = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return launch.local_rank % len(given) if given != [""] else launch.local_rank
