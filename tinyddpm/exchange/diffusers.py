"""Folders of the library diffusers: a UNet2DModel, its scheduler, and the index of the pipeline of both.

Times are the same, 0-based from T − 1 down to 0, and so are the parametrisations: `eps` is "epsilon", `x_0` is "sample"
and `v` is "v_prediction". A learned variance is "learned_range", which diffusers uses whenever a network predicts one;
`small` is "fixed_small" and `large` "fixed_large". The threshold `static` is clip_sample at ±1. `dynamic` is
thresholding, except that diffusers interpolates the quantile between two pixels, of which this library takes one.

The spacing `trailing` is "trailing" and `uniform` is "linspace". "leading" starts before T − 1 and has no equivalent:
`trailing` replaces it. With all T steps every spacing is the same, and a DDPMPipeline draws the same images as
`ancestral` from the same noise. A DDIMPipeline draws the same images as `ddim` if the number of steps divides T and it
is called with use_clipped_model_output=True, by which eps follows the clipped x_0.

Tables of alpha_bar are float32 in diffusers, float64 here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyddpm.backend import load_backend
from tinyddpm.conditions.transformed import MAP
from tinyddpm.errors import CheckpointError, ConfigError
from tinyddpm.exchange.arrays import (
    MOST_TOLD,
    Arrays,
    read_arrays,
    read_metadata,
    read_shapes,
    write_arrays,
)
from tinyddpm.exchange.diffusers_scheduler import read_scheduler, scheduler_config
from tinyddpm.exchange.diffusers_unet import read_unet, unet_config, unet_options
from tinyddpm.exchange.run import UNSAID, Imported
from tinyddpm.exchange.torch_layout import BLOCK, KINDS, to_ours, to_theirs
from tinyddpm.files import check_file, replacing
from tinyddpm.hdf5 import listed
from tinyddpm.model.config import Config, fault_in
from tinyddpm.model.model import Model

UNET, SCHEDULER = "unet", "scheduler"
UNET_CONFIG, SCHEDULER_CONFIG, INDEX = "config.json", "scheduler_config.json", "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"

LAYERS = {
    "norm_1": "norm1", "conv_1": "conv1", "time": "time_emb_proj", "norm_2": "norm2", "conv_2": "conv2",
    "shortcut": "conv_shortcut", "norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0",
    "conv": "conv",
}  # fmt: skip
"""Names of layers in blocks: ours and those of diffusers."""

WHOLE = {
    "time/dense_1": "time_embedding.linear_1", "time/dense_2": "time_embedding.linear_2",
    "time/label": "class_embedding", "conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out",
}  # fmt: skip
"""Names of layers outside blocks: ours and those of diffusers."""

OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Names of attention layers: the present ones, and those until diffusers 0.15."""

CLASSES = "tinyddpm classes"
"""Key of the names of the classes in the metadata of the file of weights."""

NULL_DROPOUT = 0.1
"""Condition dropout that is configured if the class embedding has a row for the null condition."""

LONGEST_JSON = 2**22


def write(folder: Path, model: Model, weights: Arrays) -> None:
    """Write a folder that `DDPMPipeline.from_pretrained` and `DDIMPipeline.from_pretrained` load.

    Args:
        folder: the folder, created if it does not exist.
        model: the model, for its settings.
        weights: the parameters by path.

    Raises:
        ConfigError: diffusers has no equivalent of the model, with all reasons in one line; or safetensors is not
            installed.
        DataError: a file cannot be written.
    """
    unet, scheduler = unet_config(model), scheduler_config(model)
    pipeline = {
        "_class_name": "DDPMPipeline",
        UNET: ["diffusers", "UNet2DModel"],
        SCHEDULER: ["diffusers", "DDPMScheduler"],
    }
    options = unet_options(model.config)
    theirs = {
        their_name(path, len(options["multipliers"])): to_theirs(path, array, options)
        for path, array in weights.items()
        if path != MAP
    }
    classes = {CLASSES: json.dumps(model.classes)} if model.classes else {}
    write_arrays(folder / UNET / WEIGHTS, theirs, {"format": "pt", **classes})
    _write_json(folder / UNET / UNET_CONFIG, unet)
    _write_json(folder / SCHEDULER / SCHEDULER_CONFIG, scheduler)
    _write_json(folder / INDEX, pipeline)


def read(folder: Path) -> Imported:
    """Read the model in the folder of a pipeline, or of a UNet2DModel alone, which is assumed to have DDPM's schedule.

    Names of attention layers from before diffusers 0.15 are accepted.

    Raises:
        CheckpointError: a file is missing or cannot be read; or the weights do not fit, with all differences listed.
        ConfigError: some settings have no equivalent here, all listed; or safetensors is not installed.
    """
    own = folder / UNET if (folder / UNET / UNET_CONFIG).is_file() else folder
    chain = folder / SCHEDULER / SCHEDULER_CONFIG
    chain = chain if chain.is_file() else folder / SCHEDULER_CONFIG
    notes = [] if chain.is_file() else ["there is no scheduler: DDPM's schedule is assumed, linear, T = 1000"]
    unet, wrong = read_unet(_read_json(own / UNET_CONFIG))
    tables, others, more = read_scheduler(_read_json(chain) if chain.is_file() else {}, unet.learned if unet else None)
    if unet is None or others:
        raise ConfigError(f"{folder} has no equivalent here: {listed([*wrong, *others], MOST_TOLD)}")

    file = own / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{own} has no {WEIGHTS}: save it with diffusers' safe_serialization=True")
    classes = _classes(file, unet.classes)
    null = len(classes) < unet.classes
    tables |= {"network": {"name": "unet", **unet.options}, "condition": {"dropout": NULL_DROPOUT if null else 0.0}}
    tables |= {"data": {"labels": bool(classes)}}
    config = Config.from_dict(tables, str(folder))
    layout = Model(config, unet.sample_shape, classes, load_backend("numpy")).layout
    levels, stored = len(unet.options["multipliers"]), read_shapes(file)
    shapes, names = {}, {}
    for path, shape in zip(layout.paths, layout.shapes, strict=True):
        name = their_name(path, levels)
        names[path] = name if name in stored else _older(name, stored)
        shapes[names[path]] = to_theirs(path, np.broadcast_to(np.float32(0), shape), unet.options).shape
    arrays = read_arrays(file, shapes)
    weights = {path: to_ours(path, arrays[name], unet.options, unet.swapped) for path, name in names.items()}
    return Imported(config, unet.sample_shape, classes, weights, file, (*notes, *more, UNSAID))


def _classes(file: Path, rows: int) -> tuple[str, ...]:
    """Return the names of the classes in the file's metadata, at most one fewer than rows; by default their numbers."""
    try:
        names = json.loads(read_metadata(file).get(CLASSES, "null"))
    except (ValueError, RecursionError):
        names = None
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if known and 0 <= rows - len(names) <= 1 else tuple(map(str, range(rows)))


def _older(name: str, stored: Mapping[str, Any]) -> str:
    """Return the older name of an attention layer's parameter if that is stored, otherwise `name`."""
    for now, before in OLDER.items():
        older = name.replace(f".{now}.", f".{before}.")
        if older in stored:
            return older
    return name


def their_name(path: str, levels: int) -> str:
    """Return the name in a UNet2DModel of our parameter `path`. Its up blocks are numbered from the lowest level."""
    layer, _, kind = path.rpartition("/")
    if layer in WHOLE:
        return f"{WHOLE[layer]}.{KINDS[kind]}"
    found = BLOCK.fullmatch(layer)
    assert found, path
    way, level, what, number, inner = found.groups()
    block = {"down": f"down_blocks.{level}", "middle": "mid_block"}.get(way) or f"up_blocks.{levels - 1 - int(level)}"
    part = {
        "block": f"resnets.{number}", "attention": f"attentions.{number or 0}",
        "halve": "downsamplers.0", "double": "upsamplers.0",
    }[what]  # fmt: skip
    return f"{block}.{part}.{LAYERS[inner or 'conv']}.{KINDS[kind]}"


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: the file cannot be read, is longer than `LONGEST_JSON`, or contains no such object.
    """
    try:
        check_file(path)
        if path.stat().st_size > LONGEST_JSON:
            raise CheckpointError(f"{path} is longer than any configuration: give a folder of diffusers")
        value = json.loads(path.read_bytes())
    except OSError as cause:
        raise CheckpointError(f"cannot read {path}: {cause.strerror}; give a folder of diffusers") from cause
    except (ValueError, RecursionError) as cause:
        raise CheckpointError(f"{path} is no JSON: {cause}; give a folder of diffusers") from cause
    if not isinstance(value, dict) or fault_in(value):
        raise CheckpointError(f"{path} is no configuration: give a folder of diffusers")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())
