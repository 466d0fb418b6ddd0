"""`tinyddpm export` and `tinyddpm import`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyddpm.cli.completion import FilePath, Named, RunPath, runs
from tinyddpm.cli.options import GroupedCommand, argument, option
from tinyddpm.cli.output import say
from tinyddpm.cli.trained import refuse_full
from tinyddpm.errors import ConfigError

if TYPE_CHECKING:
    from tinyddpm.exchange.run import Imported


@click.command(cls=GroupedCommand)
@argument("checkpoint", "A checkpoint, or a run folder.", type=RunPath())
@argument("out", "What to write: FILE.safetensors, FILE.npz, or a folder.", type=FilePath())
@option("--raw", is_flag=True, help="Use the weights as trained, not their average.", group="Weights")
def export(checkpoint: Path, out: Path, raw: bool) -> None:
    """Write weights of CHECKPOINT in a format of other projects.

    FILE.safetensors or FILE.npz holds the weights alone, by the paths of the network's parameters. A folder holds a
    pipeline of diffusers: its U-Net and its scheduler.
    """
    import numpy as np

    from tinyddpm.backend import load_backend
    from tinyddpm.exchange import diffusers, weights
    from tinyddpm.exchange.arrays import SUFFIXES
    from tinyddpm.model.load import load_model

    model, flat, _ = load_model(checkpoint, load_backend("numpy"), raw)
    views = model.layout.views(flat, np)
    if out.suffix.lower() in SUFFIXES:
        weights.write(out, views)
    else:
        refuse_full(out)
        diffusers.write(out, model, views)
    say(f"wrote {out}")


@click.command("import", cls=GroupedCommand)
@argument("source", "What to read: FILE.safetensors, FILE.npz, FILE.pt, or a folder.", type=FilePath())
@option("--out", type=FilePath(), required=True, help="Run folder to write.", group="Output")
@option(
    "--like",
    type=Named("presets", runs, path=True),
    help="A run, or a preset, with the settings of the network whose weights FILE holds.",
    group="Weights",
)
@option("--flags", metavar="TEXT", help='Flags of the training of FILE.pt: "--image_size 32 …".', group="Weights")
@option(
    "--trained",
    type=FilePath(),
    help="A second source of the same format, with the weights as trained; SOURCE then holds their average.",
    group="Weights",
)
def import_(source: Path, out: Path, like: str | None, flags: str | None, trained: Path | None) -> None:
    """Make a run of SOURCE, from another project or from `export`.

    FILE.safetensors and FILE.npz hold weights alone: --like names their network. FILE.pt is a checkpoint of
    improved-diffusion or guided-diffusion: --flags are the flags of model and diffusion that it was trained with. A
    folder is a pipeline of diffusers, or its U-Net alone. Nothing in these files can run code. `info` on the run folder
    says where it came from.
    """
    from tinyddpm.exchange.run import with_trained, write_run
    from tinyddpm.figures.marks import sha256_of

    form, read = _reader(source, like, flags)
    imported = read(source)
    if trained:
        imported = with_trained(imported, read(trained))
    for note in imported.notes:
        say(f"note: {note}", err=True)
    origin = {"from": str(source), "format": form, "sha256": sha256_of(imported.file)}
    origin |= {"trained": str(trained)} if trained else {}
    write_run(out, imported, origin | ({"flags": flags} if flags else {}))
    say(f"wrote {out}")


def _reader(source: Path, like: str | None, flags: str | None) -> tuple[str, Callable[[Path], Imported]]:
    """Return the name of a source's format, and the function that reads it."""
    from tinyddpm.exchange import diffusers, openai, weights
    from tinyddpm.exchange.arrays import SUFFIXES
    from tinyddpm.exchange.torch_file import PT

    alone, torch = source.suffix.lower() in SUFFIXES, source.suffix.lower() == PT
    if source.is_file() and not alone and not torch:
        raise ConfigError(
            f"{source} has no known format: give FILE.safetensors, FILE.npz, FILE.pt of OpenAI's, or a folder of"
            " diffusers"
        )
    if like is not None and not alone:
        raise ConfigError(f"{source} takes no --like, which is for FILE.safetensors and FILE.npz: leave it out")
    if flags is not None and not torch:
        raise ConfigError(f"{source} takes no --flags, which are for FILE.pt: leave them out")
    if alone:
        if like is None:
            raise ConfigError(f"{source} holds weights alone: name their network by --like RUN, or --like PRESET")
        return "weights alone", partial(weights.read, like=like)
    if torch:
        if flags is None:
            raise ConfigError(f'{source} holds weights alone: describe their model by --flags "--image_size 64 ..."')
        return "OpenAI's weights", partial(openai.read, flags=flags)
    return "diffusers", diffusers.read
