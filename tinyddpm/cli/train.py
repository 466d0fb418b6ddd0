"""`tinyddpm train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tinyddpm.cli.completion import FilePath, Named, RunPath
from tinyddpm.cli.options import cache_option, configuration, configuration_options, option
from tinyddpm.cli.output import say
from tinyddpm.cli.ranks import SharedCommand, shared
from tinyddpm.errors import ConfigError
from tinyddpm.model.config import Config, settings

if TYPE_CHECKING:
    from tinyddpm.distributed.group import Group
    from tinyddpm.progress import Watch
    from tinyddpm.training.loop import Outcome

BESIDE = {"resume", "distributed", "no_cache"}
"""Options besides settings that may be given with --resume."""


@click.command(cls=SharedCommand)
@option("--out", type=FilePath(), help="Folder of the run; runs/<data> if not given.", group="Run")
@option("--resume", type=RunPath(), help="Continue the run in this folder where it stopped.", group="Run")
@option(
    "--init-from",
    type=RunPath(),
    help="Start a new run from the weights of this run or checkpoint, and from its settings unless others are given.",
    group="Run",
)
@option("--init-raw", is_flag=True, help="Start from its weights as trained, not from their average.", group="Run")
@option("--init-partly", is_flag=True, help="Skip weights that do not fit, instead of refusing them.", group="Run")
@option("--dry-run", is_flag=True, help="Do three steps, and estimate the run's memory and time.", group="Run")
@option(
    "--callback",
    "callbacks",
    type=Named("callbacks"),
    multiple=True,
    metavar="NAME",
    help="A callback of the run, such as early-stop; set its options by --set callbacks.NAME.KEY=VALUE.",
    group="Run",
)
@configuration_options
@cache_option
@option(
    "--transform",
    "transforms",
    type=Named("transforms"),
    multiple=True,
    metavar="NAME",
    help="A random transform of training samples, such as shift; options by --set transforms.NAME.KEY=VALUE.",
    group="Data",
)
@shared
@click.pass_context
def train(
    ctx: click.Context,
    /,
    out: Path | None,
    resume: Path | None,
    init_from: Path | None,
    init_raw: bool,
    init_partly: bool,
    dry_run: bool,
    callbacks: tuple[str, ...],
    no_cache: bool,
    transforms: tuple[str, ...],
    group: Group,
    preset_name: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    **values: Any,
) -> None:
    """Train a model. Without arguments: handwritten digits, in about two minutes on two cores.

    Ctrl-C, or closing the terminal, finishes the step, saves and exits; --resume then continues bit for bit as if
    nothing had happened.

    Processes started together by mpiexec, srun or torchrun train one model.
    """
    from tinyddpm.files import unused
    from tinyddpm.progress import Progress, late
    from tinyddpm.training.initial import Initial, base_of
    from tinyddpm.training.run import resume as resume_run
    from tinyddpm.training.run import start

    progress = Progress()
    if resume:
        outcome = resume_run(resume, progress, group=group, cache=not no_cache, **_changes(ctx))
    else:
        if (init_raw or init_partly) and not init_from:
            raise ConfigError("--init-raw and --init-partly go with --init-from: say which run to start from")
        settings_too = init_from if not (preset_name or config_file) and group.first else None
        base = group.broadcast(base_of(settings_too) if settings_too else None)
        named = {"transforms": transforms, "callbacks": callbacks}
        chosen = (f"{table}.{name}={{}}" for table, names in named.items() for name in names)
        config = configuration(preset_name, config_file, (*chosen, *assignments), values, base)
        backend = group.load_backend(config.backend, config.device, config.precision, config.graph)
        if dry_run:
            with late(progress) as watch:
                _print_estimate(config, backend, group, watch, cache=not no_cache)
            return
        folder = group.broadcast(out or unused(Path("runs") / Path(config.data.source).stem))
        initial = Initial(init_from, init_raw, init_partly) if init_from else None
        outcome = start(config, backend, folder, progress, group=group, initial=initial, cache=not no_cache)
    _tell(outcome)


def _tell(outcome: Outcome) -> None:
    """Print how a run ended; exit with code 128 + signal if a signal stopped it."""
    folder = outcome.folder
    if outcome.signal:
        command = f"sample {folder}" if outcome.pictures else f"train --resume {folder}"
        say(f"stopped at step {outcome.step} by {outcome.signal.name}; all is saved, go on with: tinyddpm {command}")
        sys.exit(128 + outcome.signal)
    say(f"trained {outcome.step} steps: {folder}")
    if outcome.stopped_by:
        say(f"callback {outcome.stopped_by!r} stopped it; go on with: tinyddpm train --resume {folder}")
    for path in outcome.pictures:
        say(f"wrote {path}")


def _changes(ctx: click.Context) -> dict[str, Any]:
    """Return the settings that are given beside --resume, by name.

    Raises:
        ConfigError: an option is given that a resumed run does not take.
    """
    given: dict[str, str] = {}
    for parameter in ctx.command.params:
        match ctx.get_parameter_source(str(parameter.name)):
            case ParameterSource.COMMANDLINE:
                given[str(parameter.name)] = parameter.opts[0]
            case ParameterSource.ENVIRONMENT:
                given[str(parameter.name)] = str(parameter.envvar)
    known = {name for _, _, name, *_ in settings()}
    others = sorted(given[name] for name in given.keys() - known - BESIDE)
    if others:
        raise ConfigError(
            f"--resume keeps the settings of its run, so {', '.join(others)} cannot be given with it; to start a new"
            " run from its weights, give --init-from instead"
        )
    return {name: ctx.params[name] for name in given if name in known}


def _print_estimate(config: Config, backend: Any, group: Group, watch: Watch, cache: bool) -> None:
    from tinyddpm.progress import duration
    from tinyddpm.training.assembly import estimate

    found = estimate(config, backend, group=group, watch=watch, cache=cache)
    speed = config.training.batch_size / found.seconds_per_step
    say(f"data         {found.data}")
    say(f"learns       {found.learns}")
    say(f"parameters   {found.parameters:,}")
    say(f"memory       {found.memory / 2**20:,.0f} MiB at its peak, measured on {backend.describe()}")
    say(f"step         {found.seconds_per_step:.3g} s, {speed:.1f} samples/s")
    say(f"whole run    {duration(found.seconds_per_step * config.training.steps)} for {config.training.steps:,} steps")
