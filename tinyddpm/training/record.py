"""`run.json`: the machine, software and data of a run, and the time it took.

The file has one entry for each part of the run, from its start or a resume until it stopped:

- `began`: the time of its begin, in UTC.
- `first`: number of steps done before.
- `step`: number of steps done at the last save.
- `seconds`: elapsed time since it began.
- `spent`: the seconds spent on training, validating, saving and drawing.
- `ended`: "complete", the name of what stopped it, or null while it runs or after it was killed.
- `data`: the description of the data set, and the numbers of samples trained on and held out.
- `parameters`: the network's number of parameters.
- `backend`: the backend's description of itself.
- `machine`: processor, cores and system.
- `versions`: versions of Python and the packages.

A run does not depend on this file: if it cannot be read or written, the run prints a note and goes on.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from tinyddpm.errors import DataError
from tinyddpm.files import check_file, replacing
from tinyddpm.machine import cpu_model, versions
from tinyddpm.training.spent import Spent
from tinyddpm.training.trainer import Trainer

RECORD = "run.json"
"""The record's name in a run folder."""

PACKAGES = ("tinyddpm", "numpy", "h5py", "pillow")


class Record:
    """The record of one part of a run, written when the part begins, at each save and when it ends.

    Attributes:
        spent: the time spent in this part, which the run adds to.

    Args:
        folder: the run folder.
        trainer: the run's trainer.
        data: the description of the data set.
        say: called with one line if the file cannot be read or written.
    """

    def __init__(self, folder: Path, trainer: Trainer, data: str, say: Callable[[str], None]) -> None:
        self._path, self._say = folder / RECORD, say
        self.spent = Spent()
        self._part: dict[str, Any] = {
            "began": None,
            "first": trainer.step,
            "data": {"description": data, "train": len(trainer.train), "held_out": len(trainer.held_out)},
            "parameters": trainer.model.layout.size,
            "backend": trainer.model.backend.describe(),
            "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
            "versions": versions(PACKAGES),
        }

    def __enter__(self) -> Record:
        self._began = time.monotonic()
        self._part["began"] = datetime.now(UTC).isoformat(timespec="seconds")
        self._before = self._earlier()
        self._write(self._part["first"], None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind:
            self._write(self._part["step"], kind.__name__)

    def saved(self, step: int) -> None:
        """Write that `step` steps are done and saved."""
        self._write(step, None)

    def ended(self, step: int, how: str) -> None:
        """Write that this part ended after `step` steps, and how."""
        self._write(step, how)

    def _write(self, step: int, ended: str | None) -> None:
        spent = {kind: round(seconds, 1) for kind, seconds in self.spent.seconds.items()}
        seconds = round(time.monotonic() - self._began, 1)
        self._part |= {"step": step, "seconds": seconds, "spent": spent, "ended": ended}
        try:
            with replacing(self._path) as file:
                file.write((json.dumps({"parts": [*self._before, self._part]}, indent=1) + "\n").encode())
        except DataError as error:
            self._say(f"note: {error}; the run goes on")

    def _earlier(self) -> list[Any]:
        """Return the entries of earlier parts; [] if the file cannot be read."""
        try:
            parts = read_record(self._path)
        except DataError as error:
            self._say(f"note: {error}; it is written anew, and the run goes on")
            return []
        return parts


def read_record(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a record; [] if there is no such file.

    Raises:
        DataError: the file cannot be read, or is no record.
    """
    try:
        check_file(path)
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: it is no JSON text") from error
    parts = found.get("parts") if isinstance(found, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise DataError(f"{path} is damaged: it has no list of parts")
    return parts
