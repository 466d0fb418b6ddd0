"""An imported model, and the run folder written from it, which every command accepts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tinyddpm.backend import load_backend
from tinyddpm.errors import ConfigError
from tinyddpm.exchange.arrays import Arrays
from tinyddpm.files import check_folder, replacing
from tinyddpm.model.averages import lengths_of, name_of
from tinyddpm.model.checkpoint import Checkpoint, plugins_of, save_checkpoint
from tinyddpm.model.config import Config
from tinyddpm.model.load import CHECKPOINT
from tinyddpm.model.model import Model
from tinyddpm.training.run import CONFIG
from tinyddpm.training.trainer import law_of

UNSAID = "the training data is unknown: give `evaluate`, `nll` and `train --resume` their --data"


@dataclass(frozen=True)
class Imported:
    """A model read from a file of another project.

    Attributes:
        config: the configuration.
        sample_shape: (H, W, C) or (D,).
        classes: names of the classes, () without.
        weights: all parameters of the network by path, float32.
        file: the file of the weights.
        notes: one line for each setting that was replaced or is unknown.
        trained: raw weights, if `weights` are their average; None if there is only one set of weights.
    """

    config: Config
    sample_shape: tuple[int, ...]
    classes: tuple[str, ...]
    weights: Arrays
    file: Path
    notes: tuple[str, ...] = ()
    trained: Arrays | None = None


def with_trained(average: Imported, trained: Imported) -> Imported:
    """Combine a model's averaged weights and its raw weights, read from two files.

    Raises:
        ConfigError: the files are of different models.
    """
    if (average.config, average.sample_shape, average.classes) != (
        trained.config,
        trained.sample_shape,
        trained.classes,
    ):
        raise ConfigError(f"{trained.file} is of another model than {average.file}: give both of one training")
    return replace(average, trained=trained.weights)


def write_run(folder: Path, imported: Imported, origin: dict[str, str]) -> None:
    """Write an imported model as a run at step 0, with Adam's moments zero.

    With only one set of weights, it becomes both the raw weights and the average.

    Args:
        folder: a folder that is empty or does not exist.
        imported: the model.
        origin: origin of the model, which `tinyddpm info` shows.

    Raises:
        ConfigError: the folder is not empty, or the configuration is invalid.
        CheckpointError: a weight is not finite, or the run cannot be written.
    """
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: choose another folder with --out")
    config = imported.config
    model = Model(config, imported.sample_shape, imported.classes, load_backend("numpy"))
    layout = model.layout
    average = np.concatenate([np.ravel(imported.weights[path]) for path in layout.paths])
    trained, nothing = average, np.zeros_like(average)
    if imported.trained is not None:
        trained = np.concatenate([np.ravel(imported.trained[path]) for path in layout.paths])
    checkpoint = Checkpoint(
        config=config.to_dict(),
        step=0,
        sample_shape=imported.sample_shape,
        classes=imported.classes,
        plugins=plugins_of(config),
        state={"imported": origin},
        weights=trained,
        ema=average,
        adam_m=nothing,
        adam_v=nothing,
        averages={name_of(length): average for length in lengths_of(config.training.average_lengths)},
        history=law_of(model).packed(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / CHECKPOINT, checkpoint, list(zip(layout.paths, layout.shapes, strict=True)))
    with replacing(folder / CONFIG) as file:
        file.write(config.to_toml().encode())
