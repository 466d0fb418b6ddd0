"""How a process learns from its launcher that it is one of several ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

LAUNCHERS = {
    "Open MPI's mpirun": (
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}  # fmt: skip
"""The variables in which launchers tell a process its rank, their number, and the same among those of its machine.

Within srun alone is there a number of the step's tasks: a batch script, which is one process, has that of the job.
"""


@dataclass(frozen=True)
class Launch:
    """What a launcher says of a process: its rank, how many there are, and the same among those of its machine."""

    by: str = ""
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return what the launcher says that started this process; that it is alone if none did."""
    for by, names in LAUNCHERS.items():
        rank, size, local_rank, local_size = (environment.get(name, "") for name in names)
        if rank.isdecimal() and size.isdecimal():
            # SLURM writes "4(x2),3" for machines with 4, 4 and 3 tasks.
            most = local_size.replace("(", ",").split(",")[0]
            return Launch(
                by,
                int(rank),
                int(size),
                int(local_rank) if local_rank.isdecimal() else 0,
                int(most) if most.isdecimal() else 1,
            )
    return Launch()


def own_gpu(launch: Launch, environment: Mapping[str, str] = os.environ) -> int:
    """Return which GPU falls to a process, of those that it sees: by its rank, or the only one that it was given."""
    given = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return launch.local_rank % len(given) if given != [""] else launch.local_rank
