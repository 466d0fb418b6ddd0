"""Completion in the shell: names of registered parts, which are not imported for it, and run folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from tinyddpm import registry

RUNS = Path("runs")
"""Folder of the runs for which no `--out` is given."""


class Named(click.types.StringParamType):
    """The type of a text for which the shell offers names. Any other text is accepted too: the library checks it.

    Args:
        group: the group of the registry whose names are offered; "" for none.
        others: further names, or a function that returns them.
        several: whether the text may be several names, separated by commas.
        path: whether to offer the paths of files and folders too.
    """

    def __init__(
        self,
        group: str = "",
        others: Iterable[str] | Callable[[], Iterable[str]] = (),
        *,
        several: bool = False,
        path: bool = False,
    ) -> None:
        self._group, self._others, self._several, self._path = group, others, several, path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin as the last one in `incomplete`, after a request for paths if `path` is set."""
        before, comma, begun = incomplete.rpartition(",") if self._several else ("", "", incomplete)
        names = {entry.name for entry in registry.entries(self._group)} if self._group else set()
        names |= {*(self._others() if callable(self._others) else self._others)}
        names -= {*before.split(",")}
        found = [CompletionItem(before + comma + name) for name in sorted(names) if name.startswith(begun)]
        return [CompletionItem(incomplete, type="file"), *found] if self._path else found


class FilePath(click.Path):
    """The type of the path of a file or folder. It may begin with `~`, which shells do not replace in `--out=~/a`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Return the path, with the home folder in the place of `~`."""
        return super().convert(os.path.expanduser(value), param, ctx)


class RunPath(FilePath):
    """The type of the path of a checkpoint or a run folder; RUN@best and RUN@STEP are checkpoints that RUN keeps."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return a request for paths, then the run folders, or after an @ the checkpoints, that begin so."""
        folder, at, _ = incomplete.rpartition("@")
        names = [f"{folder}@{name}" for name in kept(Path(folder))] if at else runs()
        found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [*super().shell_complete(ctx, param, incomplete), *found]


def runs() -> list[str]:
    """Return the folders in `RUNS` that hold a checkpoint, sorted."""
    found: list[str] = []
    with suppress(OSError):
        found = [folder.as_posix() for folder in RUNS.iterdir() if any(folder.glob("*.h5"))]
    return sorted(found)


def kept(run: Path) -> list[str]:
    """Return the part after the @ for each checkpoint that a run keeps beside the last one: "best", and steps."""
    best = ["best"] if (run / "best.h5").is_file() else []
    steps = [path.stem.removeprefix("checkpoint-") for path in run.glob("checkpoint-*.h5")]
    return [*best, *map(str, sorted(int(step) for step in steps if step.isdecimal()))]


OF_SETTINGS: Mapping[str, click.ParamType[Any]] = {
    "backend": Named("backends"),
    "balance": Named(others=("none", "order", "weights")),
    "condition": Named("conditions"),
    "data": Named("datasets", path=True),
    "data_dir": click.Path(),
    "guide": Named("guidance", ("none",)),
    "loss": Named("objectives"),
    "network": Named("networks"),
    "precision": Named(others=("bf16", "fp32", "tf32")),
    "predict": Named("parametrisations"),
    "rate": Named("rates"),
    "sampler": Named("samplers"),
    "schedule": Named("schedules"),
    "spacing": Named("spacings"),
    "sums": Named(others=("bf16", "fp32")),
    "threshold": Named(others=("dynamic", "none", "static")),
    "times": Named("times", ("auto",)),
    "weighting": Named("weightings"),
}
"""The types of settings for which the shell offers names, by their names on the command line."""
