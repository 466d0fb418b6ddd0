"""The flags of improved-diffusion and guided-diffusion, which describe the model of a file of weights."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tinyddpm.errors import ConfigError
from tinyddpm.exchange.arrays import MOST_TOLD
from tinyddpm.exchange.torch_layout import MOST
from tinyddpm.hdf5 import listed

DEFAULTS: dict[str, Any] = {
    "image_size": 64, "num_channels": 128, "num_res_blocks": 2, "num_heads": 4, "num_heads_upsample": -1,
    "num_head_channels": -1, "attention_resolutions": "16,8", "channel_mult": "", "dropout": 0.0, "class_cond": False,
    "use_checkpoint": False, "use_scale_shift_norm": True, "resblock_updown": False, "use_fp16": False,
    "use_new_attention_order": False, "learn_sigma": False, "sigma_small": False, "diffusion_steps": 1000,
    "noise_schedule": "linear", "timestep_respacing": "", "use_kl": False, "predict_xstart": False,
    "rescale_timesteps": None, "rescale_learned_sigmas": True,
}  # fmt: skip
"""Flags of both projects and their defaults.

Two defaults differ between the projects. `rescale_timesteps` has no effect with 1000 steps, and must be given for other
numbers. `rescale_learned_sigmas` only affects further training; its default is that of improved-diffusion.
"""

MULTIPLIERS: dict[int, tuple[float, ...]] = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
"""Multipliers of `num_channels` by image size, used if `channel_mult` is not given."""

BOOLEANS = {
    **dict.fromkeys(("yes", "true", "t", "y", "1"), True),
    **dict.fromkeys(("no", "false", "f", "n", "0"), False),
}

CHAIN = 1000
"""Number of steps to which `rescale_timesteps` scales the time that the network receives."""


@dataclass(frozen=True)
class Flagged:
    """A model's flags, converted.

    Attributes:
        options: options of our U-Net.
        tables: other tables of our configuration.
        sample_shape: (H, W, C).
        by_class: whether the model is class-conditional.
        heads_first: whether each head has its queries, keys and values side by side, as in older files.
        notes: one line for each setting that was replaced.
    """

    options: dict[str, Any]
    tables: dict[str, Any]
    sample_shape: tuple[int, int, int]
    by_class: bool
    heads_first: bool
    notes: tuple[str, ...]


def read_flags(text: str) -> Flagged:
    """Convert flags such as "--image_size 32 --learn_sigma True".

    Raises:
        ConfigError: flags are unknown, have invalid values, or have no equivalent here. The line lists all of them.
    """
    found, wrong = _parsed(text)
    size, T, channels = found["image_size"], found["diffusion_steps"], found["num_channels"]
    multipliers = _wholes(found["channel_mult"]) if found["channel_mult"] else MULTIPLIERS.get(size)
    widths = [int(channels * m) for m in multipliers or ()]
    attended, heads = _wholes(found["attention_resolutions"]), found["num_head_channels"]
    steps, spacing = _steps(found["timestep_respacing"])
    checks = {
        **{name: found[name] > 0 for name in ("image_size", "num_channels", "num_res_blocks", "num_heads")},
        "diffusion_steps": T > 0,
        "channel_mult": bool(widths) and all(c and c % widths[0] == 0 for c in widths),
        "attention_resolutions": attended is not None,
        "num_head_channels": heads == -1 or heads > 0,
        "num_heads_upsample": heads != -1 or found["num_heads_upsample"] in (-1, found["num_heads"]),
        "noise_schedule": found["noise_schedule"] in ("linear", "cosine"),
        "timestep_respacing": steps is not None,
        "dropout": 0 <= found["dropout"] < 1,
    }
    wrong += [f"{name} is {str(found[name])[:60]!r}" for name, is_alike in checks.items() if not is_alike]
    if T != CHAIN and found["rescale_timesteps"] is None:
        wrong.append("rescale_timesteps is not given (True is improved-diffusion's default, False guided-diffusion's)")
    if wrong or attended is None:
        raise ConfigError(f"--flags has no equivalent here: {listed(wrong, MOST_TOLD)}")

    sides = [size >> level for level in range(len(widths))]
    rates = {size // side for side in attended}
    options = {
        "channels": widths[0],
        "multipliers": [c // widths[0] for c in widths],
        "blocks": found["num_res_blocks"],
        "attention": [side for level, side in enumerate(sides) if 1 << level in rates],
        "adaptive": found["use_scale_shift_norm"],
        "dropout": found["dropout"],
        **({"heads": found["num_heads"]} if heads == -1 else {"head_channels": heads}),
        "groups": 32,
        "norm_eps": 1e-5,
        "halving": "around",
        "frequency_shift": 0.0,
        "time_scale": CHAIN / T if found["rescale_timesteps"] else 1.0,
        "time_channels": 0 if widths[0] == channels else channels,
        "resampling": "blocks" if found["resblock_updown"] else "convolutions",
    }
    learned, bound = found["learn_sigma"], found["use_kl"]
    notes = [f"the steps of timestep_respacing {spacing!r} have no equivalent: they are trailing"] if spacing else []
    if bound and not learned:
        notes.append("use_kl without learn_sigma has no equivalent: further training uses the loss simple")
    return Flagged(
        options,
        {
            "schedule": {"name": found["noise_schedule"], "timesteps": T},
            "training": {
                "predict": "x_0" if found["predict_xstart"] else "eps",
                "loss": "simple" if not learned else "vlb" if bound else "hybrid",
                "vlb_weight": 0.001 if found["rescale_learned_sigmas"] else 1 / T,
            },
            "weighting": {"name": "uniform" if found["predict_xstart"] and not (learned and bound) else "simple"},
            "sampling": {
                "name": "ancestral",
                "variance": "learned" if learned else "small" if found["sigma_small"] else "large",
                "steps": steps,
            },
            "spacing": {"name": "trailing" if spacing else "uniform"},
        },
        (size, size, 3),
        found["class_cond"],
        not found["use_new_attention_order"],
        tuple(notes),
    )


def _parsed(text: str) -> tuple[dict[str, Any], list[str]]:
    """Return the value of every flag, and a list of unknown flags and invalid values."""
    try:
        words = shlex.split(text)
    except ValueError as cause:
        raise ConfigError(f"--flags cannot be read: {cause}; give them as on a command line") from cause
    found, wrong = dict(DEFAULTS), []
    for name, value in _pairs(words):
        if name not in DEFAULTS or value is None:
            wrong.append(f"{name} has no value" if name in DEFAULTS else f"{name} is no flag of a model")
            continue
        try:
            found[name] = _value(value, bool if DEFAULTS[name] is None else type(DEFAULTS[name]))
        except (ValueError, KeyError):
            wrong.append(f"{name} is {value[:60]!r}")
    return found, wrong


def _value(text: str, kind: type) -> Any:
    """Parse the value of a flag of this type.

    Raises:
        KeyError: the text is no boolean.
        ValueError: the text is no number, or an integer beyond `MOST`.
    """
    if kind is bool:
        return BOOLEANS[text.lower()]
    value = kind(text)
    if kind is int and abs(value) > MOST:
        raise ValueError(text)
    return value


def _pairs(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each flag with its value, which is the next word or follows an equals sign."""
    left = iter(words)
    for word in left:
        name, equals, value = word.removeprefix("--").partition("=")
        yield name, value if equals else next(left, None)


def _wholes(text: str) -> tuple[int, ...] | None:
    """Parse positive integers separated by commas; return None for any other text."""
    parts = [part.strip() for part in text.split(",")]
    whole = all(part.isdecimal() and len(part) <= len(str(MOST)) and 0 < int(part) <= MOST for part in parts)
    return tuple(map(int, parts)) if whole else None


def _steps(text: str) -> tuple[int | None, str]:
    """Return the number of steps of a `timestep_respacing`, and its text if our spacing `uniform` differs from it.

    0 means all steps; None means that the text is invalid.
    """
    if not text:
        return 0, ""
    counts = _wholes(text.removeprefix("ddim"))
    if counts is None:
        return None, text
    return sum(counts), text if text.startswith("ddim") or len(counts) > 1 else ""
