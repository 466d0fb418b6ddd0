"""Commands of the library, one after the other, by ranks that are started once and join once.

python -m helpers.commands_of_ranks '[["train", …], …]'

Rank 0 prints what each command wrote on standard output, and on standard error, as JSON.
"""

from __future__ import annotations

import json
import sys

import pytest

from helpers.command_line import run
from tinyddpm.distributed.join import join
from tinyddpm.distributed.launch import launched


def run_all(commands: list[list[str]]) -> None:
    """Run the commands; end with the first that fails."""
    group = join("auto", launched())
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave = group.leave
        monkeypatch.setattr(group, "leave", lambda failure=None: leave(failure) if failure else group.barrier())
        monkeypatch.setattr("tinyddpm.cli.ranks.join", lambda kind, launch: group)
        said = []
        for command in commands:
            result = run(*command)
            if result.exit_code:
                sys.exit(f"{' '.join(command)}: {result.output}")
            said.append((result.stdout, result.stderr))
        leave()
    if group.first:
        print(json.dumps(said))


if __name__ == "__main__":
    run_all(json.loads(sys.argv[1]))
