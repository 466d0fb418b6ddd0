"""`metrics.jsonl`: one JSON object per logged step, appended as the run goes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Metrics:
    """The metrics file of a run.

    Args:
        path: where it lies.
        step: the step that the run goes on from; lines of later steps are cut off, since those will be done again.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in self._lines(path) if line["step"] <= step]
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(path)
        self._path = path

    def append(self, **values: Any) -> None:
        """Add one line and hand it to the operating system."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    @staticmethod
    def _lines(path: Path) -> list[dict[str, Any]]:
        """Return the lines there are; a last one that a killed run left half written is dropped."""
        lines = []
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return lines
