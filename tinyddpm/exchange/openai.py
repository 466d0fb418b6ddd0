"""Files of improved-diffusion and guided-diffusion: the weights of a U-Net in a `.pt`, its settings as flags.

`modelNNNNNN.pt` contains the raw weights, `ema_RATE_NNNNNN.pt` an average of them. Times are as here, 0-based from
T − 1 down to 0. `learn_sigma` is our learned variance; `sigma_small` is the variance `small`, without which it is
`large`. Predictions are clipped, as by their `clip_denoised`. A `timestep_respacing` of one number is the spacing
`uniform`.

Their U-Net differs from our defaults in the options `groups`, `norm_eps`, `halving` and `frequency_shift`. Its time
embedding has the cosines before the sines, and one layer computes the queries, keys and values of all heads.
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
"""Names of layers outside blocks: ours and theirs."""

LAYERS = {
    "norm_1": "in_layers.0", "conv_1": "in_layers.2", "time": "emb_layers.1", "norm_2": "out_layers.0",
    "conv_2": "out_layers.3", "shortcut": "skip_connection",
    "norm": "norm", "q": "qkv", "k": "qkv", "v": "qkv", "out": "proj_out", "conv": "conv", None: "op",
}  # fmt: skip
"""Names of layers in blocks: ours and theirs."""

QKV = ("q", "k", "v")

CLASSES = "label_emb.weight"
PUBLISHED_CLASSES = 1000
"""Number of classes of the published class-conditional models."""

ADVICE = "give --flags as the model was trained with"


def read(path: Path, flags: str) -> Imported:
    """Read the model in a file of improved-diffusion or guided-diffusion.

    Args:
        path: the file.
        flags: the flags of its model and its diffusion, as on a command line.

    Raises:
        CheckpointError: the file cannot be read; or the weights do not fit, with all differences listed.
        ConfigError: some flags have no equivalent here, all listed; or Torch is not installed.
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
    """Return the name of our parameter `path` in their U-Net, which numbers blocks across all levels.

    Args:
        path: our path.
        options: options of our U-Net.
        ours: a mapping whose keys are the paths of all our parameters.
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
    elif way == "down":  # input block 0 is the first convolution
        step = f"input_blocks.{int(level) * (last + 1) + 1 + (last if what == 'halve' else block)}.{int(attends)}"
    elif what == "double":
        behind = 2 if f"up_{level}/attention_{last}/q/w" in ours else 1
        step = f"output_blocks.{(lowest - int(level)) * (last + 1) + last}.{behind}"
    else:
        step = f"output_blocks.{(lowest - int(level)) * (last + 1) + block}.{int(attends)}"
    return f"{step}.{LAYERS[inner]}.{KINDS[kind]}"


def _their_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of our parameter in their U-Net; for queries, keys and values, the shape of all three."""
    *_, layer, kind = path.split("/")
    if layer in QKV:
        shape = (*shape[:-1], 3 * shape[-1])
    if kind != "w":
        return shape
    ones = {"shortcut": (1, 1), **dict.fromkeys((*QKV, "out"), (1,))}.get(layer, ())
    return (shape[-1], shape[-2], *shape[:-2], *ones)


def _to_ours(path: str, array: HostArray, flagged: Flagged) -> HostArray:
    """Convert their array to our parameter; queries, keys and values are a third of it each."""
    layer = path.split("/")[-2]
    if layer in QKV:
        array = _third(array, QKV.index(layer), flagged)
    return to_ours(path, array, flagged.options, swapped=True)


def _third(array: HostArray, which: int, flagged: Flagged) -> HostArray:
    """Return the queries, keys or values of all heads, (C, …), from (3C, …).

    Older files are ordered by head first: each head has its queries, keys and values side by side.
    """
    each = flagged.options.get("head_channels") or len(array) // 3 // flagged.options["heads"]
    heads = len(array) // 3 // each if flagged.heads_first else 1
    return array.reshape(heads, 3, -1, *array.shape[1:])[:, which].reshape(-1, *array.shape[1:])


def _rows(tensors: Tensors) -> int:
    """Return the number of rows of the class embedding; `PUBLISHED_CLASSES` if the file has no valid one."""
    shape = tuple(tensors[CLASSES].shape) if CLASSES in tensors else ()
    return int(shape[0]) if len(shape) == 2 and 0 < shape[0] <= MOST else PUBLISHED_CLASSES
