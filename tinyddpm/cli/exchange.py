"""`tinyddpm export` and `tinyddpm import`."""

from __future__ import annotations

from pathlib import Path

import click

from tinyddpm.cli.options import GroupedCommand, argument, option
from tinyddpm.cli.output import say
from tinyddpm.cli.trained import refuse_full
from tinyddpm.errors import ConfigError


@click.command(cls=GroupedCommand)
@argument("checkpoint", "A checkpoint, or a run folder.", type=click.Path(path_type=Path))
@argument("out", "What to write: FILE.safetensors, FILE.npz, or a folder.", type=click.Path(path_type=Path))
@option("--raw", is_flag=True, help="Take the weights as trained, not their average.", group="Weights")
def export(checkpoint: Path, out: Path, raw: bool) -> None:
    """Write the weights of CHECKPOINT as other projects read them.

    A file FILE.safetensors or FILE.npz holds the weights alone, by the paths of the network's parameters. A folder
    holds a pipeline of diffusers, its U-Net and its scheduler.
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
@argument("source", "What to read: FILE.safetensors, FILE.npz, or a folder.", type=click.Path(path_type=Path))
@option("--out", type=click.Path(path_type=Path), required=True, help="Run folder to write.", group="Output")
@option("--like", help="A run, or a preset, with the settings of what FILE holds the weights of.", group="Weights")
def import_(source: Path, out: Path, like: str | None) -> None:
    """Make a run folder of SOURCE, which another project or `export` has written.

    What FILE.safetensors or FILE.npz holds are the weights alone: --like says of which network. A folder is a pipeline
    of diffusers, or its U-Net alone. Nothing that is read can run code. `info` on the run says where it came from.
    """
    from tinyddpm.exchange import diffusers, weights
    from tinyddpm.exchange.arrays import SUFFIXES
    from tinyddpm.exchange.run import write_run
    from tinyddpm.figures.marks import sha256_of

    if alone := source.suffix.lower() in SUFFIXES:
        if like is None:
            raise ConfigError(f"{source} holds weights alone: say of which network with --like RUN, or --like PRESET")
        imported = weights.read(source, like)
    elif source.is_file():
        raise ConfigError(f"{source} is not read: give FILE.safetensors, FILE.npz, or a folder of diffusers")
    elif like is not None:
        raise ConfigError(f"{source} has settings of its own: --like is for FILE.safetensors and FILE.npz")
    else:
        imported = diffusers.read(source)
    for note in imported.notes:
        say(f"note: {note}", err=True)
    form = "weights alone" if alone else "diffusers"
    write_run(out, imported, {"from": str(source), "format": form, "sha256": sha256_of(imported.file)})
    say(f"wrote {out}")
