"""Files of improved-diffusion and guided-diffusion: the weights of a U-Net in a `.pt`, its settings in flags.

The projects' `modelNNNNNN.pt` holds the weights as trained, and `ema_RATE_NNNNNN.pt` an average of them. Times are
ours: 0-based, from T − 1 down to 0. `learn_sigma` is our learned variance, `sigma_small` the variance `small`, and
`large` stands where it is not given. Predictions are clipped, as by their `clip_denoised`. A `timestep_respacing` of
one number is the spacing `uniform`.

They differ from our U-Net's defaults in its options `groups`, `norm_eps`, `halving` and `frequency_shift`; their
sinusoids begin with the cosines; and one layer makes the queries, keys and values of all heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyddpm.backend import load_backend
from tinyddpm.conditions import OF_CLASSES
from tinyddpm.exchange.arrays import HostArray
from tinyddpm.exchange.openai_flags import Flagged, read_flags
from tinyddpm.exchange.run import UNSAID, Imported
from tinyddpm.exchange.torch_file import Tensors, open_tensors, read_tensors
from tinyddpm.exchange.torch_layout import BLOCK, KINDS, MOST, to_ours
from tinyddpm.model.config import Config
from tinyddpm.model.model import Model

WHOLE = {
    "time/dense_1": "time_embed.0", "time/dense_2": "time_embed.2", f"time/{OF_CLASSES}": "label_emb",
    "conv_in": "input_blocks.0.0", "norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
"""Layers that stand alone, by our paths and their names."""

LAYERS = {
    "norm_1": "in_layers.0", "conv_1": "in_layers.2", "time": "emb_layers.1", "norm_2": "out_layers.0",
    "conv_2": "out_layers.3", "shortcut": "skip_connection",
    "norm": "norm", "q": "qkv", "k": "qkv", "v": "qkv", "out": "proj_out", "conv": "conv", None: "op",
}  # fmt: skip
"""Layers of blocks."""

QKV = ("q", "k", "v")

CLASSES = "label_emb.weight"
PUBLISHED_CLASSES = 1000
"""Of every model by class that was published."""

ADVICE = "give --flags as the model was trained with"


def read(path: Path, flags: str) -> Imported:
    """Return the model in a file of theirs.

    Args:
        path: the file.
        flags: those of its model and its diffusion, as on a command line.

    Raises:
        CheckpointError: the file cannot be read; or the weights do not fit, all that differ named.
        ConfigError: a flag has no equal here, all of them in one line; or Torch is not installed.
    """
    flagged = read_flags(flags)
    tensors = open_tensors(path)
    classes = tuple(map(str, range(_rows(tensors) if flagged.by_class else 0)))
    tables = {**flagged.tables, "network": {"name": "unet", **flagged.options}, "data": {"labels": flagged.by_class}}
    config = Config.from_dict(tables, "--flags")
    layout = Model(config, flagged.sample_shape, classes, load_backend("numpy")).layout
    ours = dict(zip(layout.paths, layout.shapes, strict=True))
    names = {own: their_name(own, flagged.options, ours) for own in ours}
    shapes = {names[own]: _their_shape(own, shape) for own, shape in ours.items()}
    arrays = read_tensors(path, tensors, shapes, ADVICE)
    weights = {own: _to_ours(own, arrays[name], flagged) for own, name in names.items()}
    return Imported(config, flagged.sample_shape, classes, weights, path, (*flagged.notes, UNSAID))


def their_name(path: str, options: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Return the name of a parameter of ours in their U-Net, whose steps down and up are counted through.

    Args:
        path: ours.
        options: of our U-Net.
        ours: anything by the path of each of its parameters.
    """
    layer, _, kind = path.rpartition("/")
    if layer in WHOLE:
        return f"{WHOLE[layer]}.{KINDS[kind]}"
    found = BLOCK.fullmatch(layer)
    assert found, path
    way, level, what, number, inner = found.groups()
    last, lowest = options["blocks"], len(options["multipliers"]) - 1
    block, attends = int(number or 0), what == "attention"
    if way == "middle":
        step = f"middle_block.{1 if attends else 2 * block}"
    elif way == "down":  # where step 0 is the first convolution
        step = f"input_blocks.{int(level) * (last + 1) + 1 + (last if what == 'halve' else block)}.{int(attends)}"
    elif what == "double":
        behind = 2 if f"up_{level}/attention_{last}/q/w" in ours else 1
        step = f"output_blocks.{(lowest - int(level)) * (last + 1) + last}.{behind}"
    else:
        step = f"output_blocks.{(lowest - int(level)) * (last + 1) + block}.{int(attends)}"
    return f"{step}.{LAYERS[inner]}.{KINDS[kind]}"


def _their_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that a parameter of ours, or what it is a third of, has there."""
    *_, layer, kind = path.split("/")
    if layer in QKV:
        shape = (*shape[:-1], 3 * shape[-1])
    if kind != "w":
        return shape
    ones = {"shortcut": (1, 1), **dict.fromkeys((*QKV, "out"), (1,))}.get(layer, ())
    return (shape[-1], shape[-2], *shape[:-2], *ones)


def _to_ours(path: str, array: HostArray, flagged: Flagged) -> HostArray:
    """Return a parameter of theirs as ours: of queries, keys and values its third."""
    layer = path.split("/")[-2]
    if layer in QKV:
        array = _third(array, QKV.index(layer), flagged)
    return to_ours(path, array, flagged.options, swapped=True)


def _third(array: HostArray, which: int, flagged: Flagged) -> HostArray:
    """Return the queries, keys or values of all heads, (C, …), of (3C, …).

    Older files have them by head, so that each third lies in as many pieces as there are heads.
    """
    each = flagged.options.get("head_channels") or len(array) // 3 // flagged.options["heads"]
    heads = len(array) // 3 // each if flagged.heads_first else 1
    return array.reshape(heads, 3, -1, *array.shape[1:])[:, which].reshape(-1, *array.shape[1:])


def _rows(tensors: Tensors) -> int:
    """Return how many classes are embedded."""
    shape = tuple(tensors[CLASSES].shape) if CLASSES in tensors else ()
    return int(shape[0]) if len(shape) == 2 and 0 < shape[0] <= MOST else PUBLISHED_CLASSES
