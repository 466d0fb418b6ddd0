"""`tinyddpm nll`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyddpm.cli.completion import OF_SETTINGS, FilePath, RunPath
from tinyddpm.cli.options import argument, cache_option, command_mark, option
from tinyddpm.cli.output import say
from tinyddpm.cli.ranks import SharedCommand, shared
from tinyddpm.cli.trained import machine_options, open_model, refuse_full
from tinyddpm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tinyddpm.diffusion.bound import Bound, Estimate
    from tinyddpm.diffusion.process import Variance
    from tinyddpm.distributed.group import Group
    from tinyddpm.model.model import Model


@click.command(cls=SharedCommand, short_help="Measure the likelihood of data under a trained model.")
@argument("checkpoint", "A checkpoint, or a run folder.", type=RunPath())
@option("--data", type=OF_SETTINGS["data"], help="A data set's name or path; the run's own if not given.", group="Data")
@option(
    "--data-dir",
    type=OF_SETTINGS["data_dir"],
    help="Folder to search first for a data set that is not shipped.",
    group="Data",
)
@option(
    "--split",
    help="Part of the data: train, test, or held-out, the part that the run did not train on. If not given, test where"
    " there is one, else held-out.",
    group="Data",
)
@cache_option
@option(
    "--count",
    "number",
    type=click.IntRange(0),
    default=128,
    show_default=True,
    help="Samples, spread evenly over the data; 0 for all.",
    group="Data",
)
@option(
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Samples computed at once: changes memory, and the rounding of sums.",
    group="Data",
)
@option(
    "--draws",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Draws of the noise for each sample and step; with two or more, the error due to noise is reported.",
    group="Estimate",
)
@option(
    "--times",
    "steps",
    type=click.IntRange(2),
    help="Estimate the sum over all steps from so many random ones, an even number.",
    group="Estimate",
    env=False,
)
@option(
    "--variance",
    type=click.Choice(["auto", "large", "small"]),
    default="auto",
    show_default=True,
    help="Variance of a step: large (beta), small (beta-tilde), or auto: the learned one, or large if none is learned.",
    group="Estimate",
)
@option("--flow", is_flag=True, help="Also compute the likelihood by the probability flow's ODE.", group="Estimate")
@option(
    "--flow-steps",
    type=click.IntRange(1),
    help="Steps of the ODE's solver; as many as the chain has if not given.",
    group="Estimate",
)
@option("--seed", type=int, default=0, show_default=True, help="Seed of the noise.", group="Estimate")
@option("--raw", is_flag=True, help="Use the weights as trained, not their average.", group="Estimate")
@option(
    "--out",
    type=FilePath(),
    help="Folder for nll.json and, with the figures extra, nll.png.",
    group="Output",
)
@option("--json", "as_json", is_flag=True, help="Print one JSON object.", group="Output")
@machine_options
@shared
def nll(
    checkpoint: Path,
    data: str | None,
    data_dir: str | None,
    split: str | None,
    no_cache: bool,
    number: int,
    batch_size: int,
    draws: int,
    steps: int | None,
    variance: str,
    flow: bool,
    flow_steps: int | None,
    seed: int,
    raw: bool,
    out: Path | None,
    as_json: bool,
    group: Group,
    **machine: Any,
) -> None:
    """Measure the likelihood of data that the model in CHECKPOINT, a file or a run folder, was not trained on.

    The unit is bits per dimension, for images bits per pixel and channel: fewer are better. The variational bound is an
    upper limit of the negative log-likelihood: a sum over the steps of the chain.
    """
    import numpy as np

    from tinyddpm.backend import Random
    from tinyddpm.cli.measurement import Measurement, opened
    from tinyddpm.data.base import spread
    from tinyddpm.diffusion.bound import all_times, some_times
    from tinyddpm.diffusion.flow import flow_times
    from tinyddpm.figures.marks import checkpoint_of
    from tinyddpm.progress import Progress, late

    if out and group.first:
        refuse_full(out)
    if flow_steps and not flow:
        raise ConfigError("--flow-steps is for the probability flow: give --flow with it")
    model, weights, loaded = open_model(checkpoint, raw, group=group, **machine)
    about = checkpoint_of(checkpoint, loaded, raw)
    with late(Progress()) as watch:
        dataset, split = opened(model, data, data_dir, split, watch, cache=not no_cache)
    numbers = spread(dataset, number)
    T = model.process.T
    times = some_times(T, steps, Random(np, seed)) if steps else all_times(T)
    work = Measurement(model, weights, dataset, numbers, batch_size, draws, seed, group)
    path = flow_times(model.process, flow_steps) if flow else None
    fixed: dict[str, Variance | None] = {"auto": None, "large": "large", "small": "small"}
    bound = work.bound(times, fixed[variance])
    report: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "step": loaded.step,
        "weights": "raw" if raw else "average",
        "data": dataset.description,
        "split": split,
        "samples": len(numbers),
        "draws": draws,
        "seed": seed,
        "T": T,
        "times": len(times.t),
        "variance": variance,
        "unit": "bits/dim",
        "bound": {name: _table(part) for name, part in bound.parts().items()},
        "steps": _steps(bound, model),
    }
    if path:
        report["flow"] = {**_table(work.flow(path)), "steps": len(path) - 1}
    say(*([json.dumps(report)] if as_json else _text(report, model)))
    if out and group.first:
        _write(report, out, as_json, command_mark(about))


def _table(part: Estimate) -> dict[str, float | None]:
    return {**part._asdict(), "se": part.se}


def _steps(bound: Bound, model: Model) -> dict[str, list[Any]]:
    """Return the bound's table over times; its column `distortion` is the RMSE of x_0, for images in levels of 255."""
    steps = bound.steps()
    scale = 127.5 if model.is_image else 1.0
    steps["distortion"] = [scale * rmse for rmse in steps.pop("rmse_x_0")]
    return steps


def _text(report: dict[str, Any], model: Model) -> list[str]:
    """Return the lines of a report: what was measured, then each part of the bound with its meaning."""
    T, left_out = report["T"], report["times"] < report["T"]
    meaning = {
        "L_T": "the information about the sample that is left in x_T",
        "L_t": f"the steps t = {T - 1} to 1" + (f", from {report['times'] - 1} of them" if left_out else ""),
        "L_0": "the last step, to the " + ("256 levels of each pixel" if model.is_image else "density of the point"),
        "total": "the bound: -log2 p(sample) per dimension is this at most",
    }
    rows = [(name, report["bound"][name], text) for name, text in meaning.items()]
    if "flow" in report:
        rows.append(
            ("flow", report["flow"], f"by the probability flow in {report['flow']['steps']} steps, without L_0")
        )
    lines = [
        f"{report['samples']} samples of {report['data']} ({report['split']})",
        f"{report['unit']}, ± standard error over samples and noise" + (" and times" if left_out else ""),
        "",
    ]
    for name, part, text in rows:
        noise = "" if part["se_noise"] is None else f"  noise alone ± {part['se_noise']:.4f}"
        error = "" if part["se"] is None else f"± {part['se']:.4f}"
        lines.append(f"{name:>5}  {part['mean']:9.4f} {error:<9}{noise}  {text}".rstrip())
    return lines


def _write(report: dict[str, Any], folder: Path, as_json: bool, mark: Mapping[str, Any]) -> None:
    """Write nll.json and, with the figures extra, nll.png with this mark, into a folder."""
    from tinyddpm.figures.likelihood import draw_likelihood
    from tinyddpm.files import replacing

    with replacing(folder / "nll.json") as file:
        file.write((json.dumps(report, indent=1) + "\n").encode())
    say(f"wrote {folder / 'nll.json'}", err=as_json)
    try:
        draw_likelihood(report["steps"], folder / "nll.png", mark)
    except ConfigError as error:
        say(f"note: {error}", err=True)
    else:
        say(f"wrote {folder / 'nll.png'}", err=as_json)
