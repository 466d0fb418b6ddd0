"""Ranks that something befalls at random moments: killed, stopped, or asked to end.

The others must end, say it in no more than one line, and leave a checkpoint that is whole. Resumed by as many ranks,
the run must end as the straight one does, bit for bit. MPICH's mpiexec ends all at once when a rank dies; its
mpiexec.gforker interrupts the others, and ends them a second later.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import Signals

from accidents import PATIENCE, Count
from accidents.damage import SAVING, digest
from helpers.ranks import TESTS, mpiexec
from tinyddpm.backend import load_backend
from tinyddpm.errors import TinyDDPMError
from tinyddpm.model.checkpoint import CheckpointHeader, Layout, load_checkpoint
from tinyddpm.model.load import layout_of

BEFALLS = ((Signals.SIGKILL, "mpiexec.gforker"), (Signals.SIGKILL, "mpiexec"), (Signals.SIGSTOP, "mpiexec"),
           (Signals.SIGTERM, "mpiexec"))  # fmt: skip
"""What befalls a rank, and under which launcher."""

LATEST = 4.0
"""Seconds after the start within which it does: while ranks join, train, save, draw and part."""

DONE = "all was done before"

LayoutOf = Callable[[CheckpointHeader], Layout]


START = """
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
from helpers import faulty_rank
signal.signal(signal.SIGINT, signal.default_int_handler)
faulty_rank.run_arguments()
"""
"""Where one rank is killed a launcher interrupts the others: while they import the tests, that ends them silently."""


class Job:
    """Ranks that share the run in a folder: they begin it, or go on with it."""

    def __init__(self, place: Path, ranks: int, launcher: str = "mpiexec") -> None:
        self.place, self.run, self.processes = place, place / "run", place / "processes"
        self.ranks, settings = ranks, place / "settings.toml"
        settings.write_text(SAVING.to_toml())
        shutil.rmtree(self.processes, ignore_errors=True)
        self.processes.mkdir()
        if not self.checkpoint.exists():
            shutil.rmtree(self.run, ignore_errors=True)
        how = ["--resume", self.run] if self.checkpoint.exists() else ["--config", settings, "--out", self.run]
        rank = [sys.executable, "-c", START, self.processes, "none", "0", "0", "train", *how]
        env = {**os.environ, "PYTHONPATH": str(TESTS), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with open(place / "said", "wb") as said:
            command = [mpiexec(launcher), "-n", str(ranks), *map(str, rank)]
            self.launcher = subprocess.Popen(command, env=env, stdout=said, stderr=said, start_new_session=True)

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoint.h5"

    @property
    def numbers(self) -> dict[int, int]:
        """The number of each rank's process that has begun."""
        files = {int(path.name.partition("-")[2]): path.read_text() for path in self.processes.iterdir()}
        return {rank: int(text) for rank, text in files.items() if text}

    @property
    def errors(self) -> list[str]:
        """The lines of errors."""
        lines = (self.place / "said").read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith(("Error: ", "Traceback"))]

    def finish(self) -> str:
        """Wait for a job that nothing befalls; return what went wrong."""
        try:
            code = self.launcher.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._end()
            return "it hung"
        return "" if code == 0 else " ".join([f"exit {code}", *self.errors])

    def wait(self, victim: int) -> str:
        """Return what did not end in time, of the launcher and of all ranks but `victim`; then end what is left."""
        until = time.monotonic() + PATIENCE / 2
        others = [number for rank, number in self.numbers.items() if rank != victim]
        while (left := [number for number in others if _is_there(number)]) and time.monotonic() < until:
            time.sleep(0.01)
        with suppress(subprocess.TimeoutExpired):
            self.launcher.wait(5)
        self._end()
        return f"{len(left)} ranks did not end" if left else ""

    def _end(self) -> None:
        """End what is left, such as the rank that was stopped, and the launcher that waits for it."""
        for number in self.numbers.values():
            _signal(number, Signals.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.launcher.wait(5)
        self.launcher.kill()
        self.launcher.wait()


def lost_ranks(count: int, place: Path, seed: int) -> Count:
    """Return what became of so many runs of two or three ranks, one of which something befell."""
    rng, layout = random.Random(seed), layout_of(load_backend("numpy"))
    found = Count("ranks killed, stopped or asked to end at a random moment, and ends of their runs, resumed")
    straight: dict[int, str] = {}
    for ranks in (2, 3):
        (place / f"straight-{ranks}").mkdir()
        job = Job(place / f"straight-{ranks}", ranks)
        assert job.launcher.wait(PATIENCE) == 0
        straight[ranks] = digest(load_checkpoint(job.checkpoint, layout))
    for number in range(count):
        here = place / f"{number}"
        here.mkdir()
        ranks, (how, launcher) = rng.choice((2, 3)), BEFALLS[number % len(BEFALLS)]
        victim = rng.randrange(ranks)
        job = Job(here, ranks, launcher)
        time.sleep(rng.uniform(0.2, LATEST))
        befell = victim in job.numbers and _signal(job.numbers[victim], how)
        case = f"{number} (seed {seed}): {how.name} to rank {victim} of {ranks} under {launcher}"
        wrong = job.wait(victim) or _not_whole(job, layout)
        if len(job.errors) > 1:
            wrong = wrong or f"it says {job.errors}"
        found.add(case, f"{how.name}, {_end(job)}" if befell else DONE, wrong)
        while not wrong and not _is_complete(job, layout):
            job = Job(here, ranks)
            wrong = job.finish() or _not_whole(job, layout) or " ".join(job.errors)
        same = not wrong and digest(load_checkpoint(job.checkpoint, layout)) == straight[ranks]
        found.add(f"{case}, resumed", "resumed runs as the straight one", "" if same else wrong or "another run's end")
        shutil.rmtree(here)
    return found


def _end(job: Job) -> str:
    """Return how a job ended, in words."""
    said = (job.place / "said").read_text(errors="replace")
    if job.errors:
        told = job.errors[0].startswith("Error: rank ") and " has waited " not in job.errors[0]
        return "told of by the others" if told else "while they joined"
    if "all is saved" in said:
        return "all saved"
    return "all done" if "trained 60 steps" in said else "all ended by the launcher"


def _not_whole(job: Job, layout: LayoutOf) -> str:
    """Return why the checkpoint cannot be read, if there is one."""
    try:
        if job.checkpoint.exists():
            load_checkpoint(job.checkpoint, layout)
    except TinyDDPMError as error:
        return str(error)
    return ""


def _is_complete(job: Job, layout: LayoutOf) -> bool:
    if not job.checkpoint.exists():
        return False
    found = load_checkpoint(job.checkpoint, layout)
    return found.step == SAVING.training.steps


def _is_there(number: int) -> bool:
    return Path("/proc", str(number)).exists()


def _signal(number: int, what: Signals) -> bool:
    """Signal to a process; return whether it was there."""
    try:
        os.kill(number, what)
    except ProcessLookupError:
        return False
    return True
