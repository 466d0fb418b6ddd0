"""Weights alone: the parameters of a network by their paths, in a file without settings."""

from __future__ import annotations

from pathlib import Path

from tinyddpm.backend import load_backend
from tinyddpm.exchange.arrays import Arrays, read_arrays, write_arrays
from tinyddpm.exchange.run import Imported
from tinyddpm.model.checkpoint import read_checkpoint_header
from tinyddpm.model.config import Config, preset, presets
from tinyddpm.model.load import checkpoint_file
from tinyddpm.model.model import Model, classes_learned


def write(path: Path, weights: Arrays) -> None:
    """Write weights by path, each (…) float32 as the network has it, to an `.npz` or a `.safetensors` file.

    Raises:
        ConfigError: the suffix is another, or the library of safetensors is not installed.
        DataError: it cannot be written.
    """
    write_arrays(path, weights)


def read(path: Path, like: str) -> Imported:
    """Return a model with the weights of such a file, and the settings of another.

    Args:
        path: the file.
        like: whose settings: a preset's name, a run folder or a checkpoint. A preset wins over a file of its name.

    Raises:
        CheckpointError: the file or the checkpoint cannot be read; or the weights do not fit, all that differ named.
        ConfigError: the suffix is another, or the library of safetensors is not installed.
    """
    if like in presets():
        chosen = preset(like)
        config, shape = chosen.config, chosen.sample_shape
        classes = classes_learned(config, [str(k) for k in range(chosen.classes)])
    else:
        header = read_checkpoint_header(checkpoint_file(Path(like)))
        config, shape, classes = Config.from_dict(header.config, like), header.sample_shape, header.classes
    layout = Model(config, shape, classes, load_backend("numpy")).layout
    arrays = read_arrays(path, dict(zip(layout.paths, layout.shapes, strict=True)))
    return Imported(config, shape, classes, arrays, path)
