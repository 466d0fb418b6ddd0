"""What the shell offers for arguments and options: names of registered parts, run folders. It imports none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from tinyddpm import registry

RUNS = Path("runs")
"""Where runs are, if they are not put elsewhere."""


class Named(click.types.StringParamType):
    """A text that names a part of a group, or something else.

    Args:
        group: the registry's, "" for none.
        others: names that it may have beside those, or what returns them.
        several: names may follow each other, separated by commas.
        path: it may be the path of a file or a folder, too.
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
        """Return the names that begin so, after those of paths, which the shell knows."""
        before, comma, begun = incomplete.rpartition(",") if self._several else ("", "", incomplete)
        names = {entry.name for entry in registry.entries(self._group)} if self._group else set()
        names |= {*(self._others() if callable(self._others) else self._others)}
        names -= {*before.split(",")}
        found = [CompletionItem(before + comma + name) for name in sorted(names) if name.startswith(begun)]
        return [CompletionItem(incomplete, type="file"), *found] if self._path else found


class RunPath(click.Path):
    """The path of a checkpoint or a run folder, or RUN@best and RUN@STEP."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the runs that begin so, after the paths, which the shell knows; after an @, what the run keeps."""
        folder, at, _ = incomplete.rpartition("@")
        names = [f"{folder}@{name}" for name in kept(Path(folder))] if at else runs()
        found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [*super().shell_complete(ctx, param, incomplete), *found]


def runs() -> list[str]:
    """Return the folders of runs below the current one that hold a checkpoint."""
    found: list[str] = []
    with suppress(OSError):
        found = [folder.as_posix() for folder in RUNS.iterdir() if any(folder.glob("*.h5"))]
    return sorted(found)


def kept(run: Path) -> list[str]:
    """Return what stands behind the @ for each checkpoint that a run keeps beside the last one."""
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
"""What is offered for settings, by their names on the command line."""
