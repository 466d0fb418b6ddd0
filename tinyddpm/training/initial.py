"""Initial weights of a run, taken from another run or checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from tinyddpm.backend import load_backend
from tinyddpm.errors import CheckpointError
from tinyddpm.hdf5 import listed, misfits
from tinyddpm.model.checkpoint import Checkpoint, Vector, load_checkpoint, read_checkpoint_header
from tinyddpm.model.config import Config
from tinyddpm.model.load import checkpoint_file, layout_of
from tinyddpm.model.model import Model

MOST_TOLD = 30
"""Largest number of misfitting parameters that a message lists."""


def base_of(path: Path) -> Config:
    """Return the configuration of the run at `path`, as the basis of a new run.

    Backend, device, precision, graph, callbacks and threads are the defaults.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    file, here = checkpoint_file(path), Config()
    config = Config.from_dict(read_checkpoint_header(file).config, str(file))
    where = {name: getattr(here, name) for name in ("backend", "device", "precision", "graph", "callbacks")}
    return replace(config, training=replace(config.training, threads=0), **where)


@dataclass(frozen=True)
class Initial:
    """The choice of a run's initial weights.

    Attributes:
        path: a run folder or a checkpoint.
        raw: whether to take the weights as trained, instead of their average.
        partly: whether to skip parameters that do not fit, instead of raising an error.
    """

    path: Path
    raw: bool = False
    partly: bool = False

    def read(self) -> Checkpoint:
        """Return the checkpoint, without Adam's moments.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
        """
        return load_checkpoint(checkpoint_file(self.path), layout_of(load_backend("numpy")), moments=False)

    def origin(self, checkpoint: Checkpoint) -> dict[str, str]:
        """Return what checkpoints record of the origin: the path, "raw" or "average", and the number of steps."""
        return {"from": str(self.path), "weights": "raw" if self.raw else "average", "step": str(checkpoint.step)}

    def weights(self, checkpoint: Checkpoint, model: Model, own: Vector, say: Callable[[str], None]) -> Vector:
        """Return the flat initial weights of a model, (n,).

        Args:
            checkpoint: the result of `read`.
            model: the model to train.
            own: the model's own random initial weights, (n,), kept for parameters that do not fit.
            say: called with one line that lists the parameters that do not fit.

        Raises:
            CheckpointError: parameters are missing, surplus or of other shapes, and `partly` is false; or none fits.
        """
        layout, path = model.layout, self.path
        theirs = dict(layout_of(load_backend("numpy"))(checkpoint))
        ours = dict(zip(layout.paths, layout.shapes, strict=True))
        wrong, fit = misfits(theirs, ours), sum(theirs.get(name) == shape for name, shape in ours.items())
        left_out = listed(wrong, MOST_TOLD)
        if wrong and not self.partly:
            raise CheckpointError(
                f"{path} does not fit: {left_out}: give the settings that it was trained with, or leave out what does"
                " not fit with --init-partly"
            )
        if not fit:
            raise CheckpointError(f"{path} does not fit: it has none of the parameters of this network")
        if wrong:
            say(f"note: {fit} of {len(ours)} parameters start as in {path}, without what does not fit: {left_out}")
        flat, weights, begin = checkpoint.weights if self.raw else checkpoint.ema, np.array(own), 0
        for name, shape in theirs.items():
            end = begin + prod(shape)
            if ours.get(name) == shape:
                weights[slice(*layout.spans[name])] = flat[begin:end]
            begin = end
        return weights
