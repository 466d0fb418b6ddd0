"""`tinyddpm report`."""

from __future__ import annotations

from pathlib import Path

import click

from tinyddpm.cli.completion import FilePath, RunPath
from tinyddpm.cli.options import GroupedCommand, argument, option
from tinyddpm.cli.output import say
from tinyddpm.errors import ConfigError

SUFFIXES = (".html", ".htm")
"""Endings of a page's name. A file of another, such as a checkpoint, is not replaced."""


@click.command(cls=GroupedCommand)
@argument("runs", "Run folders.", metavar="RUNS...", nargs=-1, required=True, type=RunPath())
@option(
    "--nll",
    "likelihoods",
    multiple=True,
    type=FilePath(),
    help="A report of `tinyddpm nll`, one for each run in their order; if not given, nll.json in the run's folder or in"
    " its folder nll.",
    group="Page",
)
@option(
    "--out",
    type=FilePath(),
    help="File to write; report.html in the folder of the first run if not given.",
    group="Output",
)
def report(runs: tuple[Path, ...], likelihoods: tuple[Path, ...], out: Path | None) -> None:
    """Write one HTML page on RUNS, the folders of one or more runs.

    It shows settings, data, the network's parameters, curves, samples during training and their denoising, evaluations,
    the likelihood, the machine, versions and time. The page needs no other file and no network.
    """
    from datetime import datetime

    from tinyddpm.files import replacing
    from tinyddpm.report.folder import read_run
    from tinyddpm.report.metrics import run_names
    from tinyddpm.report.page import page

    path = out or runs[0] / "report.html"
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: the page is HTML: give a name that ends in {' or '.join(SUFFIXES)}")
    folders = run_names(runs)
    if likelihoods and len(likelihoods) != len(folders):
        raise ConfigError(f"{len(likelihoods)} --nll for {len(folders)} runs: give one for each, in their order")
    files = likelihoods or [None] * len(folders)
    read = [read_run(name, folder, nll) for (name, folder), nll in zip(folders.items(), files, strict=True)]
    for run in read:
        for note in run.notes:
            say(f"note: {note}", err=True)
    text = page(read, datetime.now().astimezone())
    with replacing(path) as file:
        file.write(text.encode())
    say(f"wrote {path}")
