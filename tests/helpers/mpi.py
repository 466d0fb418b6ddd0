"""Commands of several ranks, started by the mpiexec that comes with the MPI that mpi4py finds here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BESIDE = Path(sys.executable).with_name("mpiexec")
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")


def mpiexec(ranks: int, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `tinyddpm` says with these arguments, and its exit code, when so many ranks run it; alone for one."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: run pip install 'tinyddpm[mpi]'")
    if MPIEXEC is None:
        pytest.skip("there is no mpiexec: run pip install 'tinyddpm[mpi]'")
    launcher = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    command = [*launcher, sys.executable, "-m", "tinyddpm", *map(str, arguments)]
    # A test may itself run under a launcher's variables.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PMI_", "OMPI_", "MPI_"))}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
