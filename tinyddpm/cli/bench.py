"""`tinyddpm bench`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import click

from tinyddpm.cli.completion import Named
from tinyddpm.cli.options import GroupedCommand, configuration, configuration_options, option
from tinyddpm.cli.output import say
from tinyddpm.errors import ConfigError
from tinyddpm.model.config import Config


@click.command(cls=GroupedCommand)
@option("--peer", help="Compare with `torch`, or with the contestants that a Python file defines.", group="Benchmark")
@option("--variants", help="Contestants of the peer, such as eager,channels_last; all if not given.", group="Benchmark")
@option("--compile", "compiled", is_flag=True, help="Compare with torch.compile too: takes minutes.", group="Benchmark")
@option(
    "--backends",
    type=Named("backends", several=True),
    help="Backends of this library to compare, such as numpy,numba,torch; --backend alone if not given.",
    group="Benchmark",
)
@option(
    "--rounds",
    type=click.IntRange(1),
    default=7,
    show_default=True,
    help="Turns of each contestant in a comparison, for training and for denoising.",
    group="Benchmark",
)
@option("--explain", is_flag=True, help="Say how each convolution is computed, and why.", group="Benchmark")
@option("--ranks", help="Predict the time of a training step on so many ranks: 1,8,64,1024.", group="Ranks")
@option("--link", metavar="BANDWIDTH,LATENCY", help="The network between ranks, such as 50GB/s,3us.", group="Ranks")
@option(
    "--compute-ms",
    type=float,
    help="Milliseconds of a step of --batch-size on one rank alone; measured here if not given.",
    group="Ranks",
)
@option("--parameters", help="Number of the network's parameters for --compute-ms, such as 35.7M.", group="Ranks")
@option("--json", "as_json", is_flag=True, help="Print all measurements as one JSON object.", group="Benchmark")
@configuration_options
def bench(
    *,
    peer: str | None,
    variants: str | None,
    compiled: bool,
    backends: str | None,
    rounds: int,
    explain: bool,
    ranks: str | None,
    link: str | None,
    compute_ms: float | None,
    parameters: str | None,
    as_json: bool,
    preset_name: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    **values: Any,
) -> None:
    """Measure how fast a network trains and samples on this machine.

    It also says which operations take the time. The samples are noise; no file is read or written. Training and
    denoising steps are those of `train` and `sample`. Each contestant runs in a process of its own. The backends of
    this library take turns; with --peer, so does one contestant of the peer after the other. Ctrl-C then ends the
    comparison early, and reports the contestants that are complete.

    With --ranks, predict the time of a training step on many machines or GPUs, each with a batch of --batch-size,
    under the settings --shard and --sums.
    """
    config = configuration(preset_name, config_file, assignments, values)
    if any(value is not None for value in (ranks, link, compute_ms, parameters)):
        contest = {"--peer": peer, "--variants": variants, "--compile": compiled, "--backends": backends}
        _refuse(name for name, value in {**contest, "--explain": explain}.items() if value)
        _foretell(config, preset_name, rounds, ranks, link, compute_ms, parameters, as_json)
        return
    ours = names(backends) if backends is not None else [config.backend]
    config = replace(config, backend=ours[0])

    from tinyddpm.bench.contest import run_contest
    from tinyddpm.bench.peers import find_peer
    from tinyddpm.bench.report import as_json as to_json
    from tinyddpm.bench.report import as_text
    from tinyddpm.bench.task import make_task
    from tinyddpm.progress import Progress

    task = make_task(config, preset_name)
    progress = Progress()

    def watch(name: str, done: int) -> None:
        if progress.terminal:
            progress.update(done, 2 * rounds, f"rounds of {name}")

    path, chosen = find_peer(peer) if peer else None, names(variants) if variants is not None else None
    outcome = run_contest(task, ours, path, rounds, chosen, compiled, watch)
    progress.close()
    if as_json:
        say(json.dumps(to_json(task, outcome)))
        return
    for line in as_text(task, outcome, explain):
        say(line)


def _refuse(given: Iterable[str]) -> None:
    if found := ", ".join(given):
        raise ConfigError(f"--ranks predicts this library's own training step: leave out {found}")


def _foretell(
    config: Config,
    preset_name: str | None,
    rounds: int,
    ranks: str | None,
    link: str | None,
    compute_ms: float | None,
    parameters: str | None,
    as_json: bool,
) -> None:
    """Print the predicted time of a training step on ranks; measure the step on one rank unless its time is given."""
    from tinyddpm.bench.scaling import Job, as_text, parse_link, parse_parameters, parse_ranks
    from tinyddpm.bench.scaling import as_json as to_json

    if ranks is None or link is None:
        raise ConfigError(
            "a step is predicted for --ranks with a --link between them: give both, such as 1,8,64 and 50GB/s,3us"
        )
    if parameters is not None and compute_ms is None:
        raise ConfigError("--parameters is for a network that is not measured here: give --compute-ms too")
    if compute_ms is not None and not 1e-6 <= compute_ms <= 1e12:
        raise ConfigError(f"--compute-ms is {compute_ms:g}: give milliseconds, from 1e-6 to 1e12")
    numbers, joined = parse_ranks(ranks), parse_link(link)
    measured, how = list[float](), "given"
    if parameters is not None:
        count = parse_parameters(parameters)
    else:
        from tinyddpm.bench.contest import step_seconds
        from tinyddpm.bench.task import make_task

        task = make_task(config, preset_name)
        count = task.parameters
        if compute_ms is None:
            measured, how = step_seconds(task, rounds), f"measured on {task.place}"
    compute = median(measured) if compute_ms is None else compute_ms / 1e3
    training = config.training
    job = Job(count, training.batch_size, compute, training.sums, training.shard)
    if as_json:
        say(json.dumps(to_json(job, joined, numbers, measured)))
        return
    for line in as_text(job, joined, numbers, how):
        say(line)


def names(text: str) -> list[str]:
    """Return the names in a text that separates them by commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",")))
