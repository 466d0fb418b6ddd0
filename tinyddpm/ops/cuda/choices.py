"""The names of cuDNN's plans that were chosen on this machine, in a file for later processes."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path


def choices_file() -> Path:
    """Return the path of the stored choices, lines [GPU, version and problem, name], in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tinyddpm", "cudnn.jsonl").expanduser()


def read_choices(key: str) -> list[str]:
    """Return the names of the plans stored for a key, oldest first; damaged lines are skipped."""
    found: list[str] = []
    with suppress(OSError):
        for line in choices_file().read_bytes().splitlines():
            with suppress(ValueError):
                match json.loads(line):
                    case [known, str(name)] if known == key:
                        found.append(name)
    return found


def add_choice(key: str, name: str) -> None:
    """Append a choice to the file if it can be written. Other processes may append too, so no line is rewritten."""
    file = choices_file()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab", buffering=0) as lines:
            lines.write(f"\n{json.dumps([key, name])}\n".encode())  # a line that was cut off before stays apart
