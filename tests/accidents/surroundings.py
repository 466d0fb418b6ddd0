"""Commands in surroundings that are stricter or poorer than a user's own: each must end well, and say nothing of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accidents import Count, command
from accidents.resumed import write_data

NOWHERE = "/dev/null/home"
"""A folder that nobody can make."""

OK = "without a word"
COMPLAINT = re.compile(r"Traceback|\w*Warning\b|\w*Error\b|exception", re.IGNORECASE)
"""What nothing that ends well says, but for warnings that are of Matplotlib alone."""


@dataclass(frozen=True)
class Surroundings:
    """How Python is started, and what of the environment is another: None for what is taken away."""

    python: tuple[str, ...] = ()
    env: dict[str, str | None] = field(default_factory=dict)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "LANG": None, "LC_CTYPE": None, "PYTHONIOENCODING": None}
HOMES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR")
ALL = {
    "-W error": Surroundings(("-W", "error")),
    "-X dev": Surroundings(("-X", "dev")),
    "-X warn_default_encoding": Surroundings(("-X", "warn_default_encoding")),
    "PYTHONOPTIMIZE=2": Surroundings((), {"PYTHONOPTIMIZE": "2"}),
    "C locale": Surroundings((), ASCII),
    "no HOME": Surroundings((), dict.fromkeys(("HOME", *HOMES))),
    "a HOME that cannot be written": Surroundings((), {**dict.fromkeys(HOMES), "HOME": NOWHERE}),
}

TOGETHER = Surroundings(
    ("-W", "error", "-X", "dev"), {"PYTHONOPTIMIZE": "2", **ASCII, **dict.fromkeys(HOMES), "HOME": NOWHERE}
)

COMMANDS: dict[str, str] = {
    "train": "train --data captions --preset small --condition text --steps 2 --timesteps 5 --batch-size 8 --out run"
    " --sample-count 2 --set network.channels=8 --set network.multipliers=[1] --set condition.token_width=8"
    " --set condition.depth=1 --set condition.heads=2 --validate-every 1 --image-size 8x8",
    "resume": "train --resume run --steps 3",
    "sample": "sample run --count 2 --gif --npz --prompt forêt",
    "edit": "edit interpolate run captions:0 captions:1 --sample-steps 3",
    "info": "info run",
    "nll": "nll run --split held-out --count 2 --times 2",
    "evaluate": "evaluate run --features pixels --count 4 --split train",
    "plugins": "plugins",
    "schedule": "schedule cosine",
    "figure of a process": "figure posterior",
    "figure of a run": "figure denoising run --prompt forêt",
    "plot": "plot run",
    "report": "report run",
}
"""Each with its arguments, in an order in which they find what they need."""


def surroundings(
    place: Path, chosen: Mapping[str, Surroundings] = ALL, commands: Sequence[str] = tuple(COMMANDS)
) -> Count:
    """Return how commands end in each of some surroundings.

    Args:
        place: an empty folder.
        chosen: the surroundings by name.
        commands: those of `COMMANDS` that are given.
    """
    found = Count("commands in " + ", ".join(chosen))
    for i, (name, around) in enumerate(chosen.items()):
        here = place / str(i)
        here.mkdir()
        write_data(here)
        env = {key: value for key, value in {**os.environ, **around.env}.items() if value is not None}
        for what in commands:
            ended = command(*COMMANDS[what].split(), cwd=here, env=env, python=(*around.python, "-m", "tinyddpm"))
            ours = "\n".join(line for line in ended.error.splitlines() if "/matplotlib/" not in line)
            complaint = COMPLAINT.search(ours)
            wrong = ended.last_words if ended.code else complaint and f"it says {complaint.group()!r}"
            found.add(f"{name}: {what}", OK, wrong or "")
    return found
