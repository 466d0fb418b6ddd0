"""Checkpoints that a run keeps beside its last one: the ones before it, and the best."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from tinyddpm.files import replacing
from tinyddpm.model.load import BEST, CHECKPOINT, checkpoint_at, kept_steps


def keep_last(folder: Path, step: int, count: int) -> None:
    """Keep the last checkpoint of a run, which is of `step`, and no more than `count` in all.

    The oldest go first. Those of later steps, which a run has that went back, count for nothing and stay.

    Raises:
        DataError: it cannot be kept.
    """
    _keep(folder / CHECKPOINT, checkpoint_at(folder, step))
    before = [kept for kept in kept_steps(folder) if kept <= step]
    for old in before[:-count]:
        with suppress(OSError):  # one more that stays does no harm
            checkpoint_at(folder, old).unlink()


def keep_best(folder: Path) -> None:
    """Keep the last checkpoint of a run as its best.

    Raises:
        DataError: it cannot be kept.
    """
    _keep(folder / CHECKPOINT, folder / BEST)


def _keep(last: Path, target: Path) -> None:
    """Give a checkpoint another name too: as a second link to the file, or where that cannot be as a copy of it."""
    if target.exists() and target.samefile(last):
        return
    staged = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        os.link(last, staged)
        os.replace(staged, target)
    except OSError:  # the file system has no links
        with replacing(target) as file, last.open("rb") as source:
            shutil.copyfileobj(source, file)
