"""Attacks by files: each must be refused in one line, with nothing run and with little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from accidents import PATIENCE, Count
from accidents.attacks import bombs, checkpoints, hdf5_data, pickles, write_plugin, write_targets
from accidents.damage import train

MOST = 2**29
"""Bytes of memory that a process which refuses files may take."""

REFUSED = "refused in one line"


def commands(place: Path, good: Path, canary: Path) -> list[tuple[str, list[str]]]:
    """Write the attacks into `place`; return the commands that read them, each with its name."""
    training = ["--preset", "small", "--steps", "1", "--batch-size", "4", "--sample-count", "1", "--out", "never"]
    write_targets(place)
    found = [
        (f"{name}, by {command}", [*arguments, str(path)])
        for name, path in checkpoints(place, good)
        for command, arguments in {"sample": ["sample", "--count", "1"], "resume": ["train", "--resume"]}.items()
    ]
    for attacks in (hdf5_data(place), bombs(place), pickles(place, canary)):
        found += [(f"{name}, by train", ["train", *training, "--data", str(path)]) for name, path in attacks]
    return [*found, ("pickle as a checkpoint, by info", ["info", str(place / "pickle.h5")])]


def hostile(place: Path) -> Count:
    """Return how commands end that read attacks, one after the other in one process.

    Args:
        place: an empty folder.
    """
    found, canary = Count("files that point elsewhere, carry code or unfold"), place / "canary"
    train(place / "run")
    told = commands(place, place / "run" / "checkpoint.h5", canary)
    plugins = write_plugin(place, canary)
    env = {**os.environ, "HDF5_PLUGIN_PATH": str(plugins or "")}
    line = [sys.executable, str(Path(__file__).with_name("answers.py"))]
    for name, ended in zip(
        [name for name, _ in told], _answers(line, [given for _, given in told], place, env), strict=True
    ):
        found.add(name, REFUSED, ended)
    if canary.exists():
        found.add("all", "", "code of a file was run")
    return found


def _answers(line: Sequence[str], told: Sequence[Sequence[str]], place: Path, env: dict[str, str]) -> list[str]:
    """Return what is wrong with the answer to each command, "" where nothing is."""
    text = "".join(json.dumps(list(arguments)) + "\n" for arguments in told)
    try:
        done = subprocess.run(
            line, cwd=place, env=env, input=text, capture_output=True, text=True, timeout=PATIENCE + len(told)
        )
        output = done.stdout
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode()
    found, most = [], MOST
    for code, said, memory in map(json.loads, output.splitlines()):
        refused = code in (1, 2) and len(said) == 1 and memory <= most
        found.append("" if refused else f"exit {code}, {memory / 2**20:.0f} MiB, {' '.join(said)}")
        most = max(most, memory)
    return [*found, *["no answer"] * (len(told) - len(found))]
