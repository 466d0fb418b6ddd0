"""What accidents and attacks do, counted: each file here tries one kind, as often as it is asked to."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "count_accidents.py"
"""What counts them all; processes of its own are told what to do by hidden options of it."""

PATIENCE = 60.0
"""Seconds after which reading a file, or a command, hangs."""


@dataclass
class Count:
    """How often something was tried, and how that ended.

    Attributes:
        what: was tried.
        right: how often it ended as it should, by how.
        wrong: a line for each time that it did not.
    """

    what: str
    right: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, case: str, end: str, wrong: str = "") -> None:
        """Count a case that ended as it should, in the words `end`, or else `wrong`."""
        if wrong:
            self.wrong.append(f"{case}: {wrong}")
        else:
            self.right[end] += 1

    @property
    def tried(self) -> int:
        """How often it was tried."""
        return self.right.total() + len(self.wrong)

    def __str__(self) -> str:
        ends = ", ".join(f"{times:,} {end}" for end, times in sorted(self.right.items())) or "none"
        return f"{self.what} | {self.tried:,} | {ends} | {'; '.join(self.wrong) or 'none'}"


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it said."""

    code: int
    output: str
    error: str

    @property
    def last_words(self) -> str:
        """The exit code and the last line that it said, for where it ended otherwise than it should."""
        return f"exit {self.code}, {((self.error or self.output).strip().splitlines() or ['nothing said'])[-1]}"


def command(
    *arguments: object, cwd: Path, env: Mapping[str, str] | None = None, python: Sequence[str] = ("-m", "tinyddpm")
) -> Ended:
    """Run a command of the library in a process of its own, which Python starts as `python` says."""
    line = [sys.executable, *python, *map(str, arguments)]
    try:
        done = subprocess.run(line, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return Ended(-1, "", f"it hung for {PATIENCE:g} s")
    return Ended(done.returncode, *(said.decode("utf-8", "backslashreplace") for said in (done.stdout, done.stderr)))
