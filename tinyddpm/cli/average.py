"""`tinyddpm average`."""

from __future__ import annotations

from pathlib import Path

import click

from tinyddpm.cli.completion import RunPath
from tinyddpm.cli.options import GroupedCommand, argument, option
from tinyddpm.cli.output import say
from tinyddpm.errors import ConfigError
from tinyddpm.model.averages import lengths_of, name_of

COUNT = 10
"""Lengths in a range whose number is not given."""

POOR = 0.05
"""Errors of a fit above which it is said how to have better ones."""


@click.command(cls=GroupedCommand, short_help="Average a run's weights over any length, after training.")
@argument("run", "A run folder, of a training with --average-lengths.", type=RunPath())
@option(
    "--lengths",
    required=True,
    help="Shares of the training: 0.03,0.07 or FIRST:LAST[:COUNT], such as 0.02:0.2 for ten.",
    group="Averages",
)
@option(
    "--step",
    type=click.IntRange(1),
    help="Average up to this step, which has a snapshot; the last one if not given.",
    group="Averages",
)
def average(run: Path, lengths: str, step: int | None) -> None:
    """Average the weights of RUN over other lengths than it was trained with.

    A run trained with --average-lengths keeps power-function averages and writes snapshots of them. Here averages of
    any length are made of the snapshots (EDM2, 2312.02696, section 3.2) and written to RUN/averages/length-LENGTH.h5:
    checkpoints for `sample`, `nll`, `evaluate` and `edit`. A length is the standard deviation of what each step counts,
    as a share of all steps.

    An average that is made is off by at most its fit error times the weights' distance from their mean (the root mean
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
        say(f"note: {', '.join(beyond)}: beyond the lengths of --average-lengths fits are less good", err=True)
    poor = [name_of(each.length) for each in made if each.error > POOR]
    if poor:
        say(
            f"note: {', '.join(poor)}: a smaller error takes more snapshots, by train --snapshot-every, or"
            " --average-lengths nearer to these",
            err=True,
        )


def _lengths(text: str) -> tuple[float, ...]:
    """Return the lengths that a list or a range names.

    Raises:
        ConfigError: it is neither.
    """
    first, *others = text.split(":")
    if not others:
        return _some(text)
    try:
        last, count = float(others[0]), int(others[1]) if len(others) > 1 else COUNT
        if len(others) > 2 or count < 2:
            raise ValueError(text)
        step = (last - float(first)) / (count - 1)
        return _some(",".join(f"{float(first) + number * step:.4g}" for number in range(count)))
    except ValueError as error:
        raise ConfigError(
            f"--lengths {text} is no range: write FIRST:LAST or FIRST:LAST:COUNT, such as 0.02:0.2:10"
        ) from error


def _some(text: str) -> tuple[float, ...]:
    found = lengths_of(text)
    if not found:
        raise ConfigError("--lengths names none: write some, such as 0.03,0.07")
    return found
