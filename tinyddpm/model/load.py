"""Loading a model, and finding the checkpoint that a path means."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tinyddpm.errors import CheckpointError
from tinyddpm.model.checkpoint import Checkpoint, CheckpointHeader, Layout, load_checkpoint, read_checkpoint_header
from tinyddpm.model.config import Config

if TYPE_CHECKING:  # finding a checkpoint does not import networks
    from tinyddpm.backend import Array, Backend
    from tinyddpm.model.model import Model

CHECKPOINT = "checkpoint.h5"
"""The name of the last checkpoint in a run folder."""


BEST = "best.h5"
"""The name of the checkpoint with the lowest validation loss."""

KEPT = re.compile(r"checkpoint-(\d{7,15})\.h5")
"""The names of the checkpoints that are kept by step."""


def checkpoint_file(path: Path) -> Path:
    """Return the path of the checkpoint that `path` means.

    A file means itself and a run folder its last checkpoint. RUN@best means the best checkpoint that the run keeps, and
    RUN@STEP, such as runs/digits@1000, the one of that step.

    Raises:
        CheckpointError: the run has no such checkpoint; the message lists those that it has.
    """
    if path.is_dir():
        return path / CHECKPOINT
    run, at, which = str(path).rpartition("@")
    folder = Path(run)
    if not at or path.exists() or not folder.is_dir():
        return path
    if which == "best":
        if not (folder / BEST).is_file():
            raise CheckpointError(f"{folder} keeps no best checkpoint: train with --keep-best, or resume with it")
        return folder / BEST
    file, last = checkpoint_at(folder, int(which)) if which.isdecimal() else None, folder / CHECKPOINT
    if file and file.is_file():
        return file
    last_step = [read_checkpoint_header(last).step] if last.is_file() else []
    if which.isdecimal() and int(which) in last_step:
        return last
    there = ", ".join(map(str, sorted({*kept_steps(folder), *last_step}))) or "none"
    raise CheckpointError(f"{folder} has no checkpoint {which!r}: it has those of steps {there}; --keep N keeps more")


def checkpoint_at(folder: Path, step: int) -> Path:
    """Return the path under which a run keeps the checkpoint of a step."""
    return folder / f"checkpoint-{step:07d}.h5"


def kept_steps(folder: Path) -> list[int]:
    """Return the steps whose checkpoints a run keeps by step, in ascending order."""
    names = (KEPT.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(name[1]) for name in names if name)


def layout_of(backend: Backend) -> Callable[[CheckpointHeader], Layout]:
    """Return a function from a checkpoint's header to the paths and shapes of its parameters, for `load_checkpoint`."""

    def layout(header: CheckpointHeader) -> Layout:
        from tinyddpm.model.model import Model

        model = Model(Config.from_dict(header.config), header.sample_shape, header.classes, backend)
        return [(parameter.path, parameter.shape) for parameter in model.layout.parameters]

    return layout


def load_model(path: Path, backend: Backend, raw: bool = False, threads: int = 0) -> tuple[Model, Array, Checkpoint]:
    """Return the model in a checkpoint, its flat weights on the device, (n,), and the checkpoint.

    Args:
        path: a checkpoint or a run folder; see `checkpoint_file`.
        backend: the backend to compute on.
        raw: whether to take the weights as trained, instead of their average.
        threads: the threads that share a batch; 0 for as many as help on this backend.

    Raises:
        CheckpointError: the checkpoint is missing or damaged; see `load_checkpoint`.
    """
    from tinyddpm.model.model import Model

    path = checkpoint_file(path)
    checkpoint = load_checkpoint(path, layout_of(backend), moments=False)
    config = Config.from_dict(checkpoint.config, str(path))
    model = Model(config, checkpoint.sample_shape, checkpoint.classes, backend, threads)
    return model, backend.asarray(checkpoint.weights if raw else checkpoint.ema), checkpoint
