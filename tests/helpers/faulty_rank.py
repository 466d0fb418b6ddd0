"""The command line with a fault in one rank (-1: in all), from the start or at the beginning of a step.

python -m helpers.faulty_rank FOLDER FAULT RANK STEP train --data moons …

Each rank writes its process number into FOLDER. The time until a silent rank counts as lost is short. Where a rank is
killed, the others ignore the signals that a launcher sends them for it, so that they end by themselves.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np

from tinyddpm.cli import main
from tinyddpm.distributed import ranks, watch
from tinyddpm.distributed.launch import launched
from tinyddpm.errors import CheckpointError
from tinyddpm.training import metrics
from tinyddpm.training import trainer as training
from tinyddpm.training.trainer import StepResult, Trainer

SILENCE = 3.0
"""Seconds after which a rank counts as lost."""

Fault = Callable[[Path, Trainer], None]


def _signal(number: signal.Signals) -> Fault:
    return lambda *given: os.kill(os.getpid(), number)


def _to_launcher(number: signal.Signals) -> Fault:
    """Return the fault that signals the process that a user has started: the parent of the rank's parent."""

    def tell(*given: object) -> None:
        above = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(above), number)
        time.sleep(0.5)

    return tell


def _pause(folder: Path, trainer: Trainer) -> None:
    """Stop all ranks, for longer than the time until a silent rank counts as lost."""
    all_ = " ".join(path.read_text() for path in folder.glob("process-*"))
    subprocess.Popen(["sh", "-c", f"kill -STOP {all_}; sleep {2 * SILENCE}; kill -CONT {all_}"])
    time.sleep(0.5)


def _memory(*given: object) -> NoReturn:
    raise MemoryError("Unable to allocate 40.0 GiB for an array")


def _bug(*given: object) -> NoReturn:
    raise ZeroDivisionError("a bug of somebody's network")


def _full(*given: object) -> None:
    """Make the disk full for lines of metrics from now on."""

    def dumps(values: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    metrics.json = SimpleNamespace(dumps=dumps)  # type: ignore[attr-defined]


def _full_at_save(*given: object) -> None:
    """Make the disk full for checkpoints from now on."""

    def save(path: Path, *rest: Any) -> NoReturn:
        raise CheckpointError(f"cannot write {path}: {os.strerror(errno.ENOSPC)}")

    training.save_checkpoint = save


def _nan(folder: Path, trainer: Trainer) -> None:
    """Make the samples that this rank reads NaN from now on."""
    read = trainer.train.read
    trainer.train.read = lambda places: np.full_like(read(places), np.nan)  # type: ignore[method-assign]


def _other_version() -> None:
    version = importlib.metadata.version
    importlib.metadata.version = lambda name: "0.1" if name == "numpy" else version(name)


def _no_mpi() -> None:
    sys.modules["mpi4py"] = None  # type: ignore[assignment]


STARTS: dict[str, Callable[[], object]] = {
    "another version": _other_version,
    "another learning rate": lambda: sys.argv.extend(["--learning-rate", "0.25"]),
    "another folder": lambda: os.chdir("other"),
    "no mpi4py": _no_mpi,
    "an unknown option": lambda: sys.argv.append("--unknown"),
    "an unknown variable": lambda: os.environ.update(TINYDDPM_STEPZ="3"),
}
"""Faults from the start, by name."""

FAULTS: dict[str, Fault] = {
    "none": lambda *given: None,
    "killed": _signal(signal.SIGKILL),
    "stopped": _signal(signal.SIGSTOP),
    "SIGTERM": _signal(signal.SIGTERM),
    "Ctrl-C to mpiexec": _to_launcher(signal.SIGINT),
    "SIGTERM to mpiexec": _to_launcher(signal.SIGTERM),
    "all paused": _pause,
    "out of memory": _memory,
    "a bug": _bug,
    "full disk": _full,
    "full disk at a save": _full_at_save,
    "NaN": _nan,
}
"""Faults at the beginning of a step, by name."""


def run(folder: Path, fault: str, at_rank: int, at_step: int) -> None:
    """Run the command in the remaining arguments, with a fault."""
    rank = launched().rank
    watch.BEAT, watch.SILENCE, watch.PATIENCE = 0.2, SILENCE, SILENCE
    if fault == "killed":  # mpiexec.gforker sends the others the first signal at once, and the second after a second
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    if fault == "no mpi4py":
        ranks.START = 2.0
    (folder / f"process-{rank}").write_text(str(os.getpid()))
    if fault in STARTS and at_rank in (rank, -1):
        STARTS[fault]()
    train_step = Trainer.train_step

    def step(self: Trainer) -> StepResult:
        if (rank, self.step + 1) == (at_rank, at_step):
            FAULTS[fault](folder, self)
        return train_step(self)

    Trainer.train_step = step  # type: ignore[method-assign]
    main(prog_name="tinyddpm")


def run_arguments() -> None:
    """Run the command in the arguments of this process."""
    folder, fault, at_rank, at_step, *sys.argv[1:] = sys.argv[1:]
    run(Path(folder), fault, int(at_rank), int(at_step))


if __name__ == "__main__":
    run_arguments()
