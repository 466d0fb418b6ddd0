"""`tinyddpm average`."""

from __future__ import annotations

from pathlib import Path

import click

from tinyddpm.cli.completion import RunPath
from tinyddpm.cli.options import GroupedCommand, argument, option
from tinyddpm.cli.output import say
from tinyddpm.errors import ConfigError
from tinyddpm.model.averages import lengths_of, name_of

COUNT, MOST = 10, 1000
"""Number of lengths in a range that does not say how many, and the most of a range."""

POOR = 0.05
"""Fit error above which a note says how to get a smaller one."""


@click.command(cls=GroupedCommand, short_help="Average a run's weights over any length, after training.")
@argument("run", "The folder of a run that was trained with --average-lengths.", type=RunPath())
@option(
    "--lengths",
    required=True,
    help="Lengths as shares of the training: 0.03,0.07 or FIRST:LAST[:COUNT], such as 0.02:0.2 for ten lengths.",
    group="Averages",
)
@option(
    "--step",
    type=click.IntRange(1),
    help="Step of the snapshot to average up to; the last one if not given.",
    group="Averages",
)
def average(run: Path, lengths: str, step: int | None) -> None:
    """Average the weights of RUN over other lengths than those it was trained with.

    A run trained with --average-lengths keeps power-function averages and writes snapshots of them. This command
    combines the snapshots into averages of any length (EDM2, 2312.02696, section 3.2) and writes each as a checkpoint,
    RUN/averages/length-LENGTH.h5, for `sample`, `nll`, `evaluate` and `edit`. The length of an average is the standard
    deviation of its weight over the steps, as a share of all steps.

    The error of such an average is at most its fit error times the distance of the weights from their mean (root mean
    square over all steps).
    """
    wanted = _lengths(lengths)
    if not run.is_dir():
        raise ConfigError(f"{run} is no run folder: give the folder that `train` has written")
    from tinyddpm.training.snapshots import make_averages

    made = make_averages(run, wanted, step)
    for each in made:
        say(f"wrote {each.path}  fit error {each.error:.2%}")
    beyond = [name_of(each.length) for each in made if each.beyond]
    if beyond:
        say(f"note: {', '.join(beyond)}: outside the range of --average-lengths, where fits are less good", err=True)
    poor = [name_of(each.length) for each in made if each.error > POOR]
    if poor:
        say(
            f"note: {', '.join(poor)}: for a smaller error, train with more snapshots (--snapshot-every) or with"
            " --average-lengths nearer to these",
            err=True,
        )


def _lengths(text: str) -> tuple[float, ...]:
    """Return the lengths in a list, such as "0.03,0.07", or in a range, such as "0.02:0.2:10".

    Raises:
        ConfigError: the text is neither.
    """
    first, *others = text.split(":")
    if not others:
        return _some(text)
    try:
        last, count = float(others[0]), int(others[1]) if len(others) > 1 else COUNT
        if len(others) > 2 or not 2 <= count <= MOST:
            raise ValueError(text)
        step = (last - float(first)) / (count - 1)
        return _some(",".join(f"{float(first) + number * step:.4g}" for number in range(count)))
    except ValueError as error:
        raise ConfigError(
            f"--lengths {text} is no range of 2 to {MOST}: write FIRST:LAST or FIRST:LAST:COUNT, such as 0.02:0.2:10"
        ) from error


def _some(text: str) -> tuple[float, ...]:
    found = lengths_of(text)
    if not found:
        raise ConfigError("--lengths names none: write some, such as 0.03,0.07")
    return found
