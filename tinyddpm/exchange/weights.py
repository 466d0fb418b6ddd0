"""Files of weights only: the parameters of a network by path, without settings."""

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
    """Write weights by path, float32 in the network's shapes, to an `.npz` or a `.safetensors` file.

    Raises:
        ConfigError: the suffix is neither .safetensors nor .npz, or safetensors is not installed.
        DataError: the file cannot be written.
    """
    write_arrays(path, weights)


def read(path: Path, like: str) -> Imported:
    """Read a model with the weights of such a file and the settings of `like`.

    Args:
        path: the file of weights.
        like: source of the settings: the name of a preset, a run folder or a checkpoint. A preset takes precedence.

    Raises:
        CheckpointError: the file or the checkpoint cannot be read; or the weights do not fit, with all differences
            listed.
        ConfigError: the suffix is neither .safetensors nor .npz, or safetensors is not installed.
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
