"""`tinyddpm export` and `tinyddpm import`."""

from __future__ import annotations

from pathlib import Path

import click

from tinyddpm.cli.options import GroupedCommand, argument, option
from tinyddpm.cli.output import say
from tinyddpm.errors import ConfigError


@click.command(cls=GroupedCommand)
@argument("checkpoint", "A checkpoint, or a run folder.", type=click.Path(path_type=Path))
@argument("out", "What to write: FILE.safetensors or FILE.npz.", type=click.Path(path_type=Path))
@option("--raw", is_flag=True, help="Take the weights as trained, not their average.", group="Weights")
def export(checkpoint: Path, out: Path, raw: bool) -> None:
    """Write the weights of CHECKPOINT as other projects read them.

    A file FILE.safetensors or FILE.npz holds the weights alone, by the paths of the network's parameters.
    """
    import numpy as np

    from tinyddpm.backend import load_backend
    from tinyddpm.exchange import weights
    from tinyddpm.model.load import load_model

    model, flat, _ = load_model(checkpoint, load_backend("numpy"), raw)
    weights.write(out, model.layout.views(flat, np))
    say(f"wrote {out}")


@click.command("import", cls=GroupedCommand)
@argument("source", "What to read: FILE.safetensors or FILE.npz.", type=click.Path(path_type=Path))
@option("--out", type=click.Path(path_type=Path), required=True, help="Run folder to write.", group="Output")
@option("--like", help="A run, or a preset, with the settings of what FILE holds the weights of.", group="Weights")
def import_(source: Path, out: Path, like: str | None) -> None:
    """Make a run folder of SOURCE, weights that another project or `export` has written.

    What FILE.safetensors or FILE.npz holds are the weights alone: --like says of which network. Nothing that is
    read can run code. `info` on the run says where it came from.
    """
    from tinyddpm.exchange import weights
    from tinyddpm.exchange.run import write_run
    from tinyddpm.figures.marks import sha256_of

    if like is None:
        raise ConfigError(f"{source} holds weights alone: say of which network with --like RUN, or --like PRESET")
    imported = weights.read(source, like)
    write_run(out, imported, {"from": str(source), "sha256": sha256_of(source)})
    say(f"wrote {out}")
