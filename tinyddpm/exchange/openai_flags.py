"""The flags of improved-diffusion and guided-diffusion, which say what a file of theirs holds the weights of."""

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
"""Flags of both projects, with what stands for each that is not given.

Two defaults differ between them. `rescale_timesteps` changes nothing in a chain of 1000 steps, and has to be given
for another. `rescale_learned_sigmas` matters where training goes on, and is here as in improved-diffusion.
"""

MULTIPLIERS: dict[int, tuple[float, ...]] = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
"""Of `num_channels`, by the size of the images, where `channel_mult` is not given."""

BOOLEANS = {
    **dict.fromkeys(("yes", "true", "t", "y", "1"), True),
    **dict.fromkeys(("no", "false", "f", "n", "0"), False),
}

CHAIN = 1000
"""Steps of the chain whose times `rescale_timesteps` gives to every network."""


@dataclass(frozen=True)
class Flagged:
    """A model of theirs as ours.

    Attributes:
        options: of our U-Net.
        tables: the other settings.
        sample_shape: (H, W, C).
        by_class: whether it is told classes.
        heads_first: whether each head has its queries, keys and values side by side, as the older files have them.
        notes: what is not taken over as it was, a line each.
    """

    options: dict[str, Any]
    tables: dict[str, Any]
    sample_shape: tuple[int, int, int]
    by_class: bool
    heads_first: bool
    notes: tuple[str, ...]


def read_flags(text: str) -> Flagged:
    """Return what flags such as "--image_size 32 --learn_sigma True" say.

    Raises:
        ConfigError: a flag is unknown, its value is of another kind, or it has no equal here; the line names all.
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
        wrong.append("rescale_timesteps is not said (True is improved-diffusion's default, False guided-diffusion's)")
    if wrong or attended is None:
        raise ConfigError(f"--flags has no equal here: {listed(wrong, MOST_TOLD)}")

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
    notes = [f"the steps of timestep_respacing {spacing!r} have no equal: they are trailing"] if spacing else []
    if bound and not learned:
        notes.append("use_kl without learn_sigma has no equal: training goes on with the loss simple")
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
    """Return the value of every flag, and what is none of them or has a value of another kind."""
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
    """Return the value of a flag that is of such a kind.

    Raises:
        KeyError: it is no boolean.
        ValueError: it is no number, or a whole one beyond all sizes.
    """
    if kind is bool:
        return BOOLEANS[text.lower()]
    value = kind(text)
    if kind is int and abs(value) > MOST:
        raise ValueError(text)
    return value


def _pairs(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each flag with its value: behind it, or behind an equals sign."""
    left = iter(words)
    for word in left:
        name, equals, value = word.removeprefix("--").partition("=")
        yield name, value if equals else next(left, None)


def _wholes(text: str) -> tuple[int, ...] | None:
    """Return whole numbers above 0 with commas between them, None if it is something else."""
    parts = [part.strip() for part in text.split(",")]
    whole = all(part.isdecimal() and len(part) <= len(str(MOST)) and 0 < int(part) <= MOST for part in parts)
    return tuple(map(int, parts)) if whole else None


def _steps(text: str) -> tuple[int | None, str]:
    """Return how many steps a `timestep_respacing` has, 0 for all, and the text itself where they are spaced otherwise.

    None stands for a text that is no spacing.
    """
    if not text:
        return 0, ""
    counts = _wholes(text.removeprefix("ddim"))
    if counts is None:
        return None, text
    return sum(counts), text if text.startswith("ddim") or len(counts) > 1 else ""
