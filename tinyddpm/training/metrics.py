"""`metrics.jsonl`: one JSON object per logged step, appended as the run goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyddpm.errors import DataError
from tinyddpm.files import replacing, unused


class Metrics:
    """The metrics file of a run.

    Damaged lines are dropped; the damaged file is then kept under another name.

    Args:
        path: the file.
        step: the step that the run starts or resumes from; lines of later steps are removed, as the run repeats them.
        say: called with one line if lines are damaged.

    Raises:
        DataError: the path is no file, or the file cannot be read or written.
    """

    def __init__(self, path: Path, step: int, say: Callable[[str], None]) -> None:
        self._path = path
        content = self._content()
        lines = [line for line in content.split(b"\n") if line.strip()]
        steps = [_step(line) for line in lines]
        half = bool(lines) and steps[-1] is None and not content.endswith(b"\n")  # as a killed run leaves it
        damaged = steps.count(None) - half
        if damaged:
            aside = unused(path.with_name("metrics-damaged"), path.suffix)
            with replacing(aside) as file:
                file.write(content)
            lost = f"{damaged} line{'s' if damaged > 1 else ''} of {path} cannot be read"
            say(f"note: {lost}; the others are kept, and the file as it was is {aside}")
        with replacing(path) as file:
            file.writelines(
                line + b"\n" for line, at in zip(lines, steps, strict=True) if at is not None and at <= step
            )

    def append(self, **values: Any) -> None:
        """Append one line and flush it to the operating system.

        Raises:
            DataError: the file cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise DataError(f"cannot write {self._path}: {error.strerror or error}") from error

    def _content(self) -> bytes:
        if self._path.exists() and not self._path.is_file():
            raise DataError(f"{self._path} is no file: move it away, and metrics are written there")
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise DataError(f"cannot read {self._path}: {error.strerror or error}; check its permissions") from error


def _step(line: bytes) -> int | None:
    """Return the step of a line; None if the line is no JSON object with a step."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = values.get("step") if isinstance(values, dict) else None
    return step if type(step) is int and step >= 0 else None
