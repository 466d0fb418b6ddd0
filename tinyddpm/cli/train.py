"""`tinyddpm train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tinyddpm.cli.options import GroupedCommand, cache_option, configuration, configuration_options, option
from tinyddpm.cli.output import say
from tinyddpm.cli.ranks import shared
from tinyddpm.errors import ConfigError
from tinyddpm.model.config import Config

if TYPE_CHECKING:
    from tinyddpm.distributed.group import Group
    from tinyddpm.training.loop import Outcome

CHANGED = ("steps", "backend", "device", "precision", "graph", "recompute", "learning_rate")
RESUMABLE = {"resume", "distributed", "no_cache", *CHANGED}
"""The options that may be given with --resume: none of them changes what has been trained so far."""


@click.command(cls=GroupedCommand)
@option("--out", type=click.Path(path_type=Path), help="Folder of the run; runs/<data> if not given.", group="Run")
@option("--resume", type=click.Path(path_type=Path), help="Go on with this run folder where it stopped.", group="Run")
@option("--dry-run", is_flag=True, help="Do three steps, and say what the run would take.", group="Run")
@option(
    "--callback",
    "callbacks",
    multiple=True,
    metavar="NAME",
    help="Tell a callback of the run, such as early-stop; its options by --set callbacks.NAME.KEY=VALUE.",
    group="Run",
)
@configuration_options
@cache_option
@shared
@click.pass_context
def train(
    ctx: click.Context,
    /,
    out: Path | None,
    resume: Path | None,
    dry_run: bool,
    callbacks: tuple[str, ...],
    no_cache: bool,
    group: Group,
    preset_name: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    **values: Any,
) -> None:
    """Train a model. Without arguments: handwritten digits, in about two minutes on two cores.

    Ctrl-C, or closing the terminal, finishes the step, saves and exits; --resume goes on bit for bit as if nothing had
    happened.

    Started by mpiexec or srun, its processes train one model together.
    """
    from tinyddpm.files import unused
    from tinyddpm.progress import Progress
    from tinyddpm.training.run import resume as resume_run
    from tinyddpm.training.run import start

    progress = Progress()
    if resume:
        _refuse_changes(ctx)
        changes = {name: values[name] for name in CHANGED}
        outcome = resume_run(resume, progress, group=group, cache=not no_cache, **changes)
        folder = resume if resume.is_dir() else resume.parent
    else:
        config = configuration(preset_name, config_file, assignments, values)
        config = config.updated({"callbacks": {name: {} for name in callbacks}}, "options")
        backend = group.load_backend(config.backend, config.device, config.precision, config.graph)
        if dry_run:
            _print_estimate(config, backend, group, cache=not no_cache)
            return
        folder = group.broadcast(out or unused(Path("runs") / Path(config.data.source).stem))
        outcome = start(config, backend, folder, progress, group=group, cache=not no_cache)
    _tell(outcome, folder)


def _tell(outcome: Outcome, folder: Path) -> None:
    """Say how a run ended; leave by the exit code of a signal that stopped it."""
    if outcome.signal:
        command = f"sample {folder}" if outcome.pictures else f"train --resume {folder}"
        say(f"stopped at step {outcome.step} by {outcome.signal.name}; all is saved, go on with: tinyddpm {command}")
        sys.exit(128 + outcome.signal)
    say(f"trained {outcome.step} steps: {folder}")
    if outcome.stopped_by:
        say(f"callback {outcome.stopped_by!r} stopped it; go on with: tinyddpm train --resume {folder}")
    for path in outcome.pictures:
        say(f"wrote {path}")


def _refuse_changes(ctx: click.Context) -> None:
    changes = sorted(
        parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name not in RESUMABLE
        and ctx.get_parameter_source(str(parameter.name)) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    )
    if changes:
        raise ConfigError(
            f"--resume keeps the settings of its run, so {', '.join(changes)} cannot be given with it: "
            "only --steps, --learning-rate, --backend, --device, --precision, --no-graph and --recompute can"
        )


def _print_estimate(config: Config, backend: Any, group: Group, cache: bool) -> None:
    from tinyddpm.progress import duration
    from tinyddpm.training.assembly import estimate

    found = estimate(config, backend, group=group, cache=cache)
    speed = config.training.batch_size / found.seconds_per_step
    say(f"data         {found.data}")
    say(f"learns       {found.learns}")
    say(f"parameters   {found.parameters:,}")
    say(f"memory       {found.memory / 2**20:,.0f} MiB at its peak, measured on {backend.describe()}")
    say(f"step         {found.seconds_per_step:.3g} s, {speed:.1f} samples/s")
    say(f"whole run    {duration(found.seconds_per_step * config.training.steps)} for {config.training.steps:,} steps")
