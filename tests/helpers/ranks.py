"""Ranks as a user starts them: by mpiexec or torchrun."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def mpiexec(name: str = "mpiexec") -> str:
    """A launcher, beside this Python or on the path; the test is skipped where there is none."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: run pip install 'tinyddpm[mpi]'")
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"there is no {name}: run pip install 'tinyddpm[mpi]'")
    return found


def torchrun(*options: str) -> list[str]:
    """The command that starts ranks by Torch; the test is skipped where there is none."""
    pytest.importorskip("torch.distributed.run", reason="Torch is not installed: run pip install 'tinyddpm[torch]'")
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python", *options]


def on_ranks(
    count: int,
    module: str,
    *arguments: object,
    launcher: str = "mpiexec",
    options: tuple[str, ...] = (),
    timeout: float = 200,
) -> str:
    """Run `python -m MODULE ARGUMENTS …` on so many ranks, and return what they say; all of them end well."""
    done = started(count, module, *arguments, launcher=launcher, options=options, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def started(
    count: int,
    module: str,
    *arguments: object,
    launcher: str = "mpiexec",
    options: tuple[str, ...] = (),
    timeout: float = 200,
) -> subprocess.CompletedProcess[str]:
    """Run a module on so many ranks, and return how they ended. None is left behind."""
    by = torchrun("--nproc-per-node") if launcher == "torchrun" else [mpiexec(launcher), *options, "-n"]
    command = [*by, str(count), sys.executable, "-m", module, *map(str, arguments)]
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
