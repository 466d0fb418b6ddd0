"""Starting ranks as a user does, by mpiexec or torchrun."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def mpiexec(name: str = "mpiexec") -> str:
    """Return a launcher beside this Python or on the path; skip the test if there is none."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: run pip install 'tinyddpm[mpi]'")
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"there is no {name}: run pip install 'tinyddpm[mpi]'")
    return found


def torchrun(*options: str) -> list[str]:
    """Return the command that starts ranks by Torch; skip the test if there is none."""
    pytest.importorskip("torch.distributed.run", reason="Torch is not installed: run pip install 'tinyddpm[torch]'")
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python", *options]


def on_ranks(count: int, module: str, *arguments: object, launcher: str = "mpiexec") -> str:
    """Run `python -m MODULE ARGUMENTS …` on `count` ranks, check that they succeed, and return their output."""
    done = started(count, module, *arguments, launcher=launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def all_said(count: int, commands: Mapping[str, Sequence[object]]) -> dict[str, tuple[str, str]]:
    """Run commands of the library, one after the other, on ranks that are started once; each must succeed.

    Returns:
        What each wrote on standard output, and on standard error, by its name in `commands`.
    """
    texts = [[*map(str, command)] for command in commands.values()]
    said = json.loads(on_ranks(count, "helpers.commands_of_ranks", json.dumps(texts)))
    return {name: (out, error) for name, (out, error) in zip(commands, said, strict=True)}


def started(
    count: int,
    module: str,
    *arguments: object,
    launcher: str = "mpiexec",
    options: tuple[str, ...] = (),
    timeout: float = 200,
) -> subprocess.CompletedProcess[str]:
    """Run a module on `count` ranks, and return the completed process. Ranks that are left are killed."""
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
