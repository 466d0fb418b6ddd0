"""Damaged checkpoints that are read wrongly, and runs that a kill loses.

Each damaged checkpoint must be refused in one line, or be read as what was saved, bit for bit. A run that is killed at
random moments, most of them in a save, must always be found readable, and end, resumed, as the straight run does.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path

from accidents import PATIENCE, SCRIPT, Count
from helpers.runs import POINTS
from tinyddpm.backend import load_backend
from tinyddpm.errors import TinyDDPMError
from tinyddpm.model.checkpoint import Checkpoint, load_checkpoint
from tinyddpm.model.load import layout_of
from tinyddpm.progress import Progress
from tinyddpm.training.run import start

SAVING = POINTS.updated(
    {
        "training": {"steps": 60, "validate_every": 1000, "save_every": 1, "sample_every": 1000},
        "sampling": {"variance": "small"},
    }
)
"""A run that does little but save."""

REFUSED, AS_SAVED = "refused in one line", "read as saved"
EARLY, READABLE, STRAIGHT = "before the first save", "readable", "as the straight run"


def train(folder: Path) -> None:
    """Train the run of `SAVING` straight."""
    start(SAVING, load_backend("numpy"), folder, Progress(StringIO()))


def digest(checkpoint: Checkpoint) -> str:
    """Return a hash of all that a checkpoint holds."""
    found = hashlib.sha256()
    for name, value in sorted(vars(checkpoint).items()):
        found.update(f"{name} {value.tobytes() if hasattr(value, 'tobytes') else value!r}".encode())
    return found.hexdigest()


def damaged(content: bytes, seed: int) -> bytes:
    """Return a file with one to three accidents: a bit flipped, or a piece cut, zeroed, repeated or made noise."""
    rng, found = random.Random(seed), bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(found)), min(rng.choice((1, 8, 64, 512, 4096)), len(found))
        match rng.randrange(6):
            case 0:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                del found[max(1, at) :]
            case 2:
                del found[max(1, at) : at + length]
            case 3:
                found[at : at + length] = bytes(len(found[at : at + length]))
            case 4:
                found[at:at] = found[at : at + length]
            case _:
                found[at : at + length] = rng.randbytes(len(found[at : at + length]))
    return bytes(found)


def read_all(original: Path, first: int, last: int) -> None:
    """Damage a checkpoint by each seed, read it, and print what came of that; anything else ends the process."""
    content, layout = original.read_bytes(), layout_of(load_backend("numpy"))
    saved = digest(load_checkpoint(original, layout))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.h5")
        for seed in range(first, last):
            path.write_bytes(damaged(content, seed))
            try:
                found = AS_SAVED if digest(load_checkpoint(path, layout)) == saved else "read wrongly"
            except TinyDDPMError as error:
                found = REFUSED if len(str(error).splitlines()) == 1 else "refused in several lines"
            print(found, flush=True)


def mutations(count: int, seed: int = 0) -> Count:
    """Return what became of so many damaged checkpoints. Each is read in another process, which may crash or hang."""
    found = Count("checkpoints with bits flipped, pieces cut, zeroed, repeated or made noise")
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder, "run"))
        checkpoint = Path(folder, "run", "checkpoint.h5")
        while found.tried < count:
            first = seed + found.tried
            command = [sys.executable, SCRIPT, "--read", checkpoint, str(first), str(seed + count)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                timer = Watch(process)
                assert process.stdout is not None
                for line in process.stdout:
                    timer.again()
                    end = line.strip()
                    found.add(f"seed {seed + found.tried}", end, "" if end in (REFUSED, AS_SAVED) else end)
                timer.stop()
            if found.tried < count:
                found.add(f"seed {seed + found.tried}", "", "it crashed or hung")
    return found


class Watch:
    """Kills a process that has said nothing for `PATIENCE`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        signal.signal(signal.SIGALRM, lambda number, frame: process.kill())
        self.again()

    def again(self) -> None:
        """Wait anew."""
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def stop(self) -> None:
        """Wait no more."""
        signal.setitimer(signal.ITIMER_REAL, 0)


def kills(count: int, seed: int = 0) -> Count:
    """Return what became of so many kills of a run that saves at every step; each time it is resumed, until it ends."""
    rng, layout = random.Random(seed), layout_of(load_backend("numpy"))
    found, done = Count("kills of a run that saves at every step, and ends of it, resumed"), 0
    with tempfile.TemporaryDirectory() as folder:
        straight, killed, settings = Path(folder, "straight"), Path(folder, "killed"), Path(folder, "settings.toml")
        train(straight)
        wanted = digest(load_checkpoint(straight / "checkpoint.h5", layout))
        settings.write_text(SAVING.to_toml())
        checkpoint = killed / "checkpoint.h5"
        while done < count:
            if not checkpoint.exists():
                shutil.rmtree(killed, ignore_errors=True)
            how = ["--resume", killed] if checkpoint.exists() else ["--config", settings, "--out", killed]
            killed_it = run_for_a_while([sys.executable, "-m", "tinyddpm", "train", *map(str, how)], checkpoint, rng)
            done += killed_it
            if not checkpoint.exists():
                found.add(f"kill {done}", EARLY)
                continue
            try:
                reached = load_checkpoint(checkpoint, layout)
            except TinyDDPMError as error:
                found.add(f"kill {done}", "", str(error))
                checkpoint.unlink()
                continue
            if killed_it:
                found.add(f"kill {done}", READABLE)
            if reached.step == SAVING.training.steps:
                found.add(f"end after kill {done}", STRAIGHT, "" if digest(reached) == wanted else "another run's end")
                shutil.rmtree(killed)
    return found


def run_for_a_while(command: list[str], checkpoint: Path, rng: random.Random) -> bool:
    """Kill a run a moment after its next save; return whether it had not ended by then."""

    def saved() -> int:
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    before, began = saved(), time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and saved() == before and time.monotonic() < began + PATIENCE:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.2))
        code = process.poll()
        process.kill()
        assert process.stderr is not None
        said = process.stderr.read()
    if code:
        raise RuntimeError(f"a run that was resumed failed: {said}")
    return code is None
