"""How a process joins the ranks that were launched with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyddpm.distributed.launch import Launch
from tinyddpm.errors import ConfigError

if TYPE_CHECKING:
    from tinyddpm.distributed.group import Group

KINDS = ("auto", "mpi", "torch", "nccl", "none")
"""Ways of communication. "auto" is NCCL between CuPy's GPUs; otherwise gloo of Torch if torchrun started the ranks,
and MPI if another launcher did."""


def join(kind: str, launch: Launch) -> Group:
    """Return the group of the ranks that were launched together, after all have joined it.

    Args:
        kind: one of `KINDS`.
        launch: the launcher's description of this process.

    Raises:
        ConfigError: the kind is unknown, its library is missing, or the ranks cannot reach each other.
    """
    if kind not in KINDS:
        raise ConfigError(f"--distributed {kind!r}: choose from {', '.join(KINDS)}")
    from tinyddpm.distributed.group import ALONE

    if kind == "none" or (kind == "auto" and launch.size == 1):
        return ALONE
    from tinyddpm.distributed.ranks import Ranks

    nccl = {"auto": None, "nccl": True}.get(kind, False)
    if kind == "torch" or (kind != "mpi" and launch.by == "torchrun"):
        from tinyddpm.distributed.gloo import GlooLink, import_torch

        if launch.by == "torchrun":
            import_torch()  # it may take longer than ranks wait for each other
        return Ranks(launch, GlooLink, nccl)
    from tinyddpm.distributed.mpi import MPILink

    return Ranks(launch, MPILink, nccl)
