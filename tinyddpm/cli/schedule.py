"""`tinyddpm schedule`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tinyddpm.cli.completion import OF_SETTINGS, FilePath
from tinyddpm.cli.options import GroupedCommand, argument, command_mark, option, parse_assignments
from tinyddpm.cli.output import say


@click.command(cls=GroupedCommand)
@argument("names", "Registered schedules.", metavar="[NAMES]...", nargs=-1, type=OF_SETTINGS["schedule"])
@option("--timesteps", type=int, default=1000, show_default=True, help="Length T of the chain.", group="Schedule")
@option(
    "--schedule-option",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the schedule.",
    group="Schedule",
)
@option("--zero-terminal-snr", is_flag=True, help="Rescale schedules to end without any signal.", group="Schedule")
@option(
    "--png",
    type=FilePath(),
    help="Draw the schedules into this file; needs the figures extra.",
    group="Output",
)
@option("--json", "as_json", is_flag=True, help="Print one JSON object: a list of reports.", group="Output")
def schedule(
    names: tuple[str, ...],
    timesteps: int,
    assignments: tuple[str, ...],
    zero_terminal_snr: bool,
    png: Path | None,
    as_json: bool,
) -> None:
    """Check and draw noise schedules: NAMES, or all.

    Prints the share of the image that is left at the last step, the ranges of the signal-to-noise ratio and of the
    betas, and warnings of known faults of schedules.
    """
    from tinyddpm import registry
    from tinyddpm.diffusion import schedules
    from tinyddpm.diffusion.schedule_report import curves, report
    from tinyddpm.figures.terminal import line_chart

    names = names or tuple(entry.name for entry in registry.entries("schedules"))
    options = parse_assignments(assignments, depth=1)
    betas = {name: schedules.make_betas(name, timesteps, **options) for name in names}
    if zero_terminal_snr:
        betas = {f"{name}, zero terminal SNR": schedules.zero_terminal_snr(values) for name, values in betas.items()}
    reports = [report(name, values) for name, values in betas.items()]
    if as_json:
        say(json.dumps({"schedules": [found.to_dict() for found in reports]}))
    else:
        for found in reports:
            say(*str(found).split("\n"), "")
        say("sqrt(alpha_bar), the share of the image that is left, from t = 0 to T - 1")
        signal = {name: curves(values)["sqrt(alpha_bar)"] for name, values in betas.items()}
        say(*line_chart(signal).split("\n"))
    if png:
        from tinyddpm.figures.curves import draw_schedules

        draw_schedules(betas, png, mark=command_mark())
        say(f"wrote {png}", err=as_json)
