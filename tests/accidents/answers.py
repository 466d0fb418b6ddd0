"""A process that is told commands, and writes what each answers and how much memory all have taken so far.

It imports nothing but the library, which therefore is the one that loads HDF5 and sees to its plugins.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from click.testing import CliRunner

from tinyddpm.cli import main


def peak_memory() -> int:
    """Return the most bytes that the process has had in memory; 0 where there is no /proc.

    What `getrusage` tells may be the memory of the process that started this one.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    for line in sys.stdin:
        result = CliRunner().invoke(main, json.loads(line))
        failure = result.exception
        if failure and not isinstance(failure, SystemExit):
            said = [f"{type(failure).__name__}: {failure}", "which nothing caught"]
        else:
            said = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
        print(json.dumps([result.exit_code, said, peak_memory()]), flush=True)
