"""The command group of figures, and the code that all figures share: destination, charts in the terminal, options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyddpm.cli.completion import FilePath, RunPath
from tinyddpm.cli.options import GroupedCommand, argument, option
from tinyddpm.cli.output import say
from tinyddpm.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tinyddpm.data.base import Dataset


@click.group(short_help="Draw the process, data and runs.")
def figure() -> None:
    """Draw figures of a process, a data set or a trained model, as PNG or SVG. `tinyddpm figure NAME --help` explains
    each of them. Needs the figures extra: pip install 'tinyddpm[figures]'.
    """


def figure_command(name: str, short: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Return the decorator that makes a command of the group `figure`, with the option `--out`."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        text = f"File to write, PNG or SVG; figures/{name}.png if not given."
        with_out = option("--out", type=FilePath(), help=text, group="Output")(function)
        return figure.command(name, cls=GroupedCommand, short_help=short)(with_out)

    return decorate


def destination(name: str, out: Path | None) -> Path:
    """Return the file to write a figure to: `out`, or figures/NAME.png.

    Raises:
        ConfigError: figures cannot be drawn here, or the file's ending is of no format.
        DataError: the file cannot be written.
    """
    from tinyddpm.figures.style import check_figure
    from tinyddpm.files import check_target

    path = out or Path("figures") / f"{name}.png"
    check_figure(path)
    check_target(path)
    return path


def wrote(path: Path) -> None:
    """Print that a file was written."""
    say(f"wrote {path}")


def chart(
    series: Mapping[str, Sequence[float] | NDArray[np.floating]], times: Sequence[int], log: bool = False
) -> None:
    """Print curves over t in the terminal, from t = 0, interpolated linearly between the given ascending times."""
    import numpy as np

    from tinyddpm.figures.terminal import line_chart

    every = np.arange(times[-1] + 1)
    say(*line_chart({name: np.interp(every, times, y) for name, y in series.items()}, log=log).split("\n"))


run_argument = argument("checkpoint", "A checkpoint, or a run folder.", metavar="RUN", type=RunPath())

seed_option = option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the noise.", group="Process"
)


def samples_of(dataset: Dataset, numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Return the samples with these indices as the process takes them: images in [−1, 1], points unchanged.

    Raises:
        ConfigError: `numbers` is empty, because the first one asked for is beyond the end.
    """
    from tinyddpm.ops.images import to_model

    if not len(numbers):
        raise ConfigError(f"{dataset.description}: --first is beyond the last number, {len(dataset) - 1}")
    samples = dataset.read(numbers)
    return to_model(samples) if len(dataset.shape) == 3 else samples
