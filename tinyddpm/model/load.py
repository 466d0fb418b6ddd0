"""A model from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyddpm.model.checkpoint import Checkpoint, CheckpointHeader, load_checkpoint
from tinyddpm.model.config import Config

if TYPE_CHECKING:  # whoever asks where a checkpoint lies need not wait for networks
    from tinyddpm.backend import Array, Backend
    from tinyddpm.model.model import Model

CHECKPOINT = "checkpoint.h5"
"""The checkpoint's name in a run folder."""


def checkpoint_file(path: Path) -> Path:
    """Return the checkpoint that `path` names: the file itself, or the one in a run folder."""
    return path / CHECKPOINT if path.is_dir() else path


def layout_of(backend: Backend) -> Any:
    """Return the function that tells a checkpoint's parameters from its header, for `load_checkpoint`."""

    def layout(header: CheckpointHeader) -> list[tuple[str, tuple[int, ...]]]:
        from tinyddpm.model.model import Model

        model = Model(Config.from_dict(header.config), header.sample_shape, header.classes, backend)
        return [(parameter.path, parameter.shape) for parameter in model.layout.parameters]

    return layout


def load_model(path: Path, backend: Backend, raw: bool = False, threads: int = 0) -> tuple[Model, Array, Checkpoint]:
    """Return the model in a checkpoint (or in the run folder that holds one) and its flat weights on the device.

    Args:
        path: a checkpoint, or a run folder.
        backend: where to compute.
        raw: the weights as trained, instead of their average.
        threads: the threads that share a batch; 0 for as many as help on this backend.
    """
    from tinyddpm.model.model import Model

    path = checkpoint_file(path)
    checkpoint = load_checkpoint(path, layout_of(backend), moments=False)
    config = Config.from_dict(checkpoint.config, str(path))
    model = Model(config, checkpoint.sample_shape, checkpoint.classes, backend, threads)
    return model, backend.asarray(checkpoint.weights if raw else checkpoint.ema), checkpoint
