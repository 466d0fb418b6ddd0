"""Checkpoints that a run keeps beside its last one: earlier ones and the best one."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from tinyddpm.files import replacing
from tinyddpm.model.load import BEST, CHECKPOINT, checkpoint_at, kept_steps


def keep_last(folder: Path, step: int, count: int) -> None:
    """Keep the last checkpoint, of step `step`, under a name of its own, and remove the oldest beyond `count`.

    Checkpoints of later steps, left by a run that went back to an earlier one, are neither counted nor removed.

    Raises:
        DataError: the file cannot be written.
    """
    _keep(folder / CHECKPOINT, checkpoint_at(folder, step))
    before = [kept for kept in kept_steps(folder) if kept <= step]
    for old in before[:-count]:
        with suppress(OSError):  # a leftover does no harm
            checkpoint_at(folder, old).unlink()


def keep_best(folder: Path) -> None:
    """Keep the last checkpoint of a run as its best.

    Raises:
        DataError: the file cannot be written.
    """
    _keep(folder / CHECKPOINT, folder / BEST)


def _keep(last: Path, target: Path) -> None:
    """Give a checkpoint a second name: a hard link, or a copy where the file system has no links."""
    staged = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        os.link(last, staged)
        os.replace(staged, target)
    except OSError:  # the file system has no links
        with replacing(target) as file, last.open("rb") as source:
            shutil.copyfileobj(source, file)
