"""`tinyddpm info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tinyddpm.cli.completion import Named, runs
from tinyddpm.cli.options import GroupedCommand, argument, option
from tinyddpm.cli.output import say
from tinyddpm.errors import ConfigError
from tinyddpm.model.config import Config, preset, presets

DRAWN = (".png", ".svg", ".gif", ".npz")
"""Endings of files in which tinyddpm records how they were drawn."""


@click.command(cls=GroupedCommand)
@argument(
    "what",
    "A checkpoint, a run folder, a preset, or a PNG, SVG, GIF or NPZ file that tinyddpm drew.",
    type=Named("presets", runs, path=True),
)
@option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object, which for a model has at least `parameters` and `step`.",
    group="Output",
)
@option("--sha256", "hashed", is_flag=True, help="Also the checkpoint's hash: reads the whole file.", group="Output")
def info(what: str, as_json: bool, hashed: bool) -> None:
    """Describe a run, a checkpoint, a preset, or how a file was made.

    A preset's name wins over a file of the same name; write ./NAME for the file.
    """
    drawn = what not in presets() and Path(what).suffix.lower() in DRAWN
    if hashed and (drawn or what in presets()):
        raise ConfigError(f"--sha256 is for a checkpoint, and {what} is none: leave it out")
    if drawn:
        _tell_mark(Path(what), as_json)
        return
    found = _preset(what) if what in presets() else _checkpoint(Path(what), hashed)
    if as_json:
        say(json.dumps(found))
        return
    from tinyddpm.model.checkpoint import in_words

    config = Config.from_dict(found.pop("config"))
    for key, value in found.items():
        if key == "plugins":
            value = ", ".join(in_words(value))
        elif isinstance(value, dict):
            value = ", ".join(f"{name} {text}" for name, text in value.items())
        elif isinstance(value, list):
            value = ("x" if key == "sample_shape" else ", ").join(map(str, value)) or "none"
        say(f"{key:<14}{f'{value:,}' if isinstance(value, int) else value}")
    say("", *_lines(config))


def _tell_mark(path: Path, as_json: bool) -> None:
    """Print how a file was drawn: a line for each entry of its mark, and one for each sample."""
    from tinyddpm.figures.marks import read_mark

    if not path.is_file():
        raise ConfigError(f"there is no file {path}: give one that tinyddpm drew")
    mark = dict(read_mark(path))
    if as_json:
        say(json.dumps(mark))
        return
    samples, configuration = mark.pop("samples", []), mark.pop("configuration", None)
    for key, value in [*mark.items(), *(("sample", sample) for sample in samples)]:
        text = ", ".join(f"{name} {_plain(part)}" for name, part in value.items()) if isinstance(value, dict) else value
        say(f"{key:<14}{_plain(text)}")
    if configuration:
        say("", *_lines(Config.from_dict(configuration, str(path))))


def _lines(config: Config) -> list[str]:
    return config.to_toml().rstrip("\n").split("\n")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _preset(name: str) -> dict[str, Any]:
    from tinyddpm.backend import load_backend
    from tinyddpm.model.checkpoint import plugins_of
    from tinyddpm.model.model import Model, classes_learned

    chosen = preset(name)
    classes = classes_learned(chosen.config, [str(i) for i in range(chosen.classes)])
    return {
        "source": f"preset {name}",
        "parameters": Model(chosen.config, chosen.sample_shape, classes, load_backend("numpy")).layout.size,
        "step": 0,
        "sample_shape": list(chosen.sample_shape),
        "classes": [*classes],
        "plugins": plugins_of(chosen.config),
        "config": chosen.config.to_dict(),
    }


def _checkpoint(path: Path, hashed: bool) -> dict[str, Any]:
    from tinyddpm.model.checkpoint import ORIGINS, read_checkpoint_outline
    from tinyddpm.model.load import checkpoint_file

    file = checkpoint_file(path)
    if not file.exists() and not path.exists():
        raise ConfigError(
            f"{path} is neither a checkpoint nor a run folder, nor one of the presets {', '.join(presets())}"
        )
    header, parameters = read_checkpoint_outline(file)
    digest = {}
    if hashed:
        from tinyddpm.figures.marks import sha256_of

        digest["sha256"] = sha256_of(file)
    return {
        "source": str(file),
        "parameters": parameters,
        "step": header.step,
        "sample_shape": list(header.sample_shape),
        "classes": list(header.classes),
        "plugins": header.plugins,
        **{key: header.state[key] for key in (*ORIGINS, "averaged") if key in header.state},
        **digest,
        "config": Config.from_dict(header.config, str(file)).to_dict(),
    }
