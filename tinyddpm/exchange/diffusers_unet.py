"""Conversion between the configuration of a diffusers UNet2DModel and the options of our U-Net."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinyddpm import registry
from tinyddpm.conditions import OF_CLASSES
from tinyddpm.errors import ConfigError
from tinyddpm.exchange.diffusers_scheduler import PREDICTIONS
from tinyddpm.exchange.torch_layout import MOST
from tinyddpm.hdf5 import listed
from tinyddpm.model.config import Config
from tinyddpm.model.model import Model
from tinyddpm.nn.layers import Norms

JOINTS = {"convolutions": "conv", "blocks": "resnet"}
"""Kinds of resampling between levels: ours and those of diffusers."""

DOWN = {
    (False, "conv"): "DownBlock2D",
    (False, "resnet"): "ResnetDownsampleBlock2D",
    (True, "conv"): "AttnDownBlock2D",
    (True, "resnet"): "AttnDownBlock2D",
}
UP = {
    (False, "conv"): "UpBlock2D",
    (False, "resnet"): "ResnetUpsampleBlock2D",
    (True, "conv"): "AttnUpBlock2D",
    (True, "resnet"): "AttnUpBlock2D",
}
"""Names of down and up blocks in diffusers, by whether they attend and how they are joined to the next level."""


def unet_options(config: Config) -> dict[str, Any]:
    """Return all options of the U-Net, with defaults for those that are not set."""
    defaults = {name: option.default for name, option in registry.options(registry.load("networks", "unet")).items()}
    return {**defaults, **config.network.options}


def unet_config(model: Model) -> dict[str, Any]:
    """Return the configuration of a UNet2DModel that computes the same function as the model's network.

    Raises:
        ConfigError: there is none, with all reasons in one line.
    """
    config = model.config
    wrong = []
    if config.network.name != "unet":
        raise ConfigError(f"the network {config.network.name!r} has no equivalent in diffusers: export a U-Net")
    if model.condition_name not in ("", OF_CLASSES):
        wrong.append(f"the condition {model.condition_name!r}")
    if config.training.predict not in PREDICTIONS:
        wrong.append(f"predict {config.training.predict!r} (there is {', '.join(PREDICTIONS)})")
    options = unet_options(config)
    if options["time_scale"] != 1:
        wrong.append(f"network.time_scale {options['time_scale']}")
    if options["time_channels"] not in (0, options["channels"]):
        wrong.append(f"network.time_channels {options['time_channels']}")
    layout = dict(zip(model.layout.paths, model.layout.shapes, strict=True))
    norms = Norms(options["groups"], 1) if options["groups"] else Norms()
    groups = {norms.groups(shape[0]) for path, shape in layout.items() if path.endswith("/scale")}
    if len(groups) > 1:
        numbers = " and ".join(map(str, sorted(groups)))
        wrong.append(f"norms of {numbers} groups (train with --set network.groups={min(groups)})")
    attended = {shape[0] for path, shape in layout.items() if path.endswith("/q/w")}
    heads = {options["head_channels"] or c // options["heads"] for c in attended}
    head = None if options["heads"] == 1 and not options["head_channels"] else min(heads)
    if head is not None and len(heads) > 1:
        numbers = " and ".join(map(str, sorted(heads)))
        wrong.append(f"heads of {numbers} channels (train with --set network.head_channels={min(heads)})")
    if wrong:
        raise ConfigError(f"no UNet2DModel of diffusers is equal to this model: it has {listed(wrong, len(wrong))}")

    height, width, c_image = model.sample_shape
    levels = range(len(options["multipliers"]))
    attends = [f"down_{level}/attention_0/q/w" in layout for level in levels]
    joint = JOINTS[options["resampling"]]
    return {
        "_class_name": "UNet2DModel",
        "sample_size": height if height == width else [height, width],
        "in_channels": c_image,
        "out_channels": layout["conv_out/b"][0],
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": options["frequency_shift"],
        "flip_sin_to_cos": False,
        "down_block_types": [DOWN[attends[level], joint] for level in levels],
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": [UP[attends[level], joint] for level in reversed(levels)],
        "block_out_channels": [options["channels"] * m for m in options["multipliers"]],
        "layers_per_block": options["blocks"],
        "mid_block_scale_factor": 1,
        "downsample_padding": 1 if options["halving"] == "around" else 0,
        "downsample_type": joint,
        "upsample_type": joint,
        "dropout": options["dropout"],
        "act_fn": "silu",
        "attention_head_dim": head,
        "norm_num_groups": min(groups),
        "attn_norm_num_groups": min(groups),
        "norm_eps": options["norm_eps"],
        "resnet_time_scale_shift": "scale_shift" if options["adaptive"] else "default",
        "add_attention": True,
        "class_embed_type": None,
        "num_class_embeds": layout["time/label/table"][0] if "time/label/table" in layout else None,
    }


@dataclass(frozen=True)
class Unet:
    """A UNet2DModel's configuration, converted.

    Attributes:
        options: options of our U-Net.
        sample_shape: (H, W, C).
        classes: number of rows of the class embedding, 0 without one.
        learned: whether the network learns the variance.
        swapped: whether the time embedding has the cosines before the sines.
    """

    options: dict[str, Any]
    sample_shape: tuple[int, int, int]
    classes: int
    learned: bool
    swapped: bool


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 < value <= MOST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_wholes(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_whole, value))


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


READ: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "sample_size": (None, lambda value: _is_whole(value) or (_is_wholes(value) and len(value) == 2)),
    "in_channels": (3, _is_whole),
    "out_channels": (3, _is_whole),
    "freq_shift": (0, _is_number),
    "flip_sin_to_cos": (True, lambda value: isinstance(value, bool)),
    "down_block_types": (["DownBlock2D", *["AttnDownBlock2D"] * 3], _is_names),
    "up_block_types": ([*["AttnUpBlock2D"] * 3, "UpBlock2D"], _is_names),
    "block_out_channels": ([224, 448, 672, 896], _is_wholes),
    "layers_per_block": (2, _is_whole),
    "downsample_padding": (1, lambda value: type(value) is int),
    "downsample_type": ("conv", lambda value: value in ("conv", "resnet")),
    "upsample_type": ("conv", lambda value: value in ("conv", "resnet")),
    "dropout": (0.0, _is_number),
    "attention_head_dim": (8, lambda value: value is None or _is_whole(value)),
    "norm_num_groups": (32, _is_whole),
    "attn_norm_num_groups": (None, lambda value: value is None or _is_whole(value)),
    "norm_eps": (1e-5, _is_number),
    "resnet_time_scale_shift": ("default", lambda value: isinstance(value, str)),
    "num_class_embeds": (None, lambda value: value is None or _is_whole(value)),
    "time_embedding_dim": (None, lambda value: value is None or _is_whole(value)),
}
"""The settings that are read from a configuration: default of each, and whether a value is valid."""

ALIKE: dict[str, tuple[Any, ...]] = {
    "_class_name": ("UNet2DModel",),
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "class_embed_type": (None,),
}
"""Settings that our U-Net has fixed: values with the same meaning, of which the first is the default."""

WITHOUT_EFFECT = {
    "num_train_timesteps",
    "decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power",
}  # fmt: skip
"""Settings that do not change our U-Net: one of learned embeddings of time, and those that EMAModel of diffusers adds
to the network whose weights it has averaged."""


def read_unet(config: Mapping[str, Any]) -> tuple[Unet | None, list[str]]:
    """Convert a UNet2DModel's configuration to options of our U-Net.

    Args:
        config: the UNet2DModel's configuration, which need not be valid.

    Returns:
        (the U-Net, []), or (None, the settings that have no equivalent).
    """
    found = {name: config.get(name, default) for name, (default, _) in READ.items()}
    fixed = {name: config.get(name, alike[0]) for name, alike in ALIKE.items()}
    wrong = [f"{name} is {fixed[name]!r}" for name, alike in ALIKE.items() if fixed[name] not in alike]
    wrong += [f"{name} is {found[name]!r}" for name, (_, is_valid) in READ.items() if not is_valid(found[name])]
    known = {*READ, *ALIKE, *WITHOUT_EFFECT}
    wrong += [name for name in config if name not in known and not name.startswith("_")]
    if wrong:
        return None, wrong

    widths, levels = found["block_out_channels"], range(len(found["block_out_channels"]))
    size = found["sample_size"]
    height, width = size if isinstance(size, list) else (size, size)
    attends = {name: attending for kinds in (DOWN, UP) for (attending, _), name in kinds.items()}
    down, up = ([attends.get(name) for name in found[f"{way}_block_types"]] for way in ("down", "up"))
    joints = [_joints(found[f"{way}_block_types"], found[f"{way}sample_type"]) for way in ("down", "up")]
    c_in, groups, adaptive = found["in_channels"], found["norm_num_groups"], found["resnet_time_scale_shift"]
    of_middle = found["attn_norm_num_groups"] or (groups if adaptive == "default" else None)
    checks = {
        "down_block_types": None not in down and len(down) == len(levels),
        "up_block_types": up == down[::-1],
        "block_out_channels": not any(c % widths[0] for c in widths),
        "out_channels": found["out_channels"] in (c_in, 2 * c_in),
        "downsample_type": len(joints[0]) < 2,
        "upsample_type": joints[1] == joints[0],
        "downsample_padding": found["downsample_padding"] in (0, 1),
        "resnet_time_scale_shift": adaptive in ("default", "scale_shift"),
        "attn_norm_num_groups": of_middle == groups,
        "time_embedding_dim": found["time_embedding_dim"] in (None, 4 * widths[0]),
    }
    wrong = [f"{name} is {found[name]!r}" for name, is_alike in checks.items() if not is_alike]
    if wrong:
        return None, wrong
    options = {
        "channels": widths[0],
        "multipliers": [c // widths[0] for c in widths],
        "blocks": found["layers_per_block"],
        "attention": [max(height, width) >> level for level in levels if down[level]],
        "adaptive": adaptive == "scale_shift",
        "dropout": float(found["dropout"]),
        "head_channels": found["attention_head_dim"] or 0,
        "groups": groups,
        "norm_eps": float(found["norm_eps"]),
        "halving": "around" if found["downsample_padding"] else "from",
        "frequency_shift": float(found["freq_shift"]),
        "resampling": "blocks" if "resnet" in joints[0] else "convolutions",
    }
    unet = Unet(
        options,
        (height, width, c_in),
        found["num_class_embeds"] or 0,
        learned=found["out_channels"] == 2 * c_in,
        swapped=found["flip_sin_to_cos"],
    )
    return unet, []


def _joints(names: list[str], joint: str) -> set[str]:
    """Return the kinds of resampling between levels.

    Blocks with attention have the kind `joint`, other blocks that of their name. The last block has no resampling.
    """
    alone = {name: kind for kinds in (DOWN, UP) for (attends, kind), name in kinds.items() if not attends}
    return {alone.get(name, joint) for name in names[:-1]}
