"""`tinyddpm bench`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tinyddpm.cli.options import GroupedCommand, configuration, configuration_options, option
from tinyddpm.cli.output import say


@click.command(cls=GroupedCommand)
@option("--peer", help="Compare with `torch`, or with the contestants that a Python file defines.", group="Benchmark")
@option("--variants", help="Those of the peer that take part, such as eager,channels_last; all.", group="Benchmark")
@option("--compile", "compiled", is_flag=True, help="Compare with torch.compile too; minutes.", group="Benchmark")
@option("--backends", help="Those of ours, such as numpy,numba,torch; that of --backend alone.", group="Benchmark")
@option(
    "--rounds",
    type=click.IntRange(1),
    default=7,
    show_default=True,
    help="Turns of each peer and of ours beside it, for training and for denoising.",
    group="Benchmark",
)
@option("--explain", is_flag=True, help="Say how each convolution is computed, and why.", group="Benchmark")
@option("--json", "as_json", is_flag=True, help="One JSON object with all that was measured.", group="Benchmark")
@configuration_options
def bench(
    *,
    peer: str | None,
    variants: str | None,
    compiled: bool,
    backends: str | None,
    rounds: int,
    explain: bool,
    as_json: bool,
    preset_name: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    **values: Any,
) -> None:
    """Measure how fast a network trains and samples here, and what its time goes to.

    On samples of noise; nothing is read or written. Training and denoising steps are as `train` and `sample` take them.
    Each contestant runs in a process of its own. Those of this library, one a backend, take turns, with --peer beside
    one of the peer's after the other. Ctrl-C then ends it early, with the peers that have had all their turns.
    """
    config = configuration(preset_name, config_file, assignments, values)
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
        if sys.stderr.isatty():
            progress.update(done, 2 * rounds, f"rounds of {name}")

    path, chosen = find_peer(peer) if peer else None, names(variants) if variants is not None else None
    outcome = run_contest(task, ours, path, rounds, chosen, compiled, watch)
    progress.close()
    if as_json:
        say(json.dumps(to_json(task, outcome)))
        return
    for line in as_text(task, outcome, explain):
        say(line)


def names(text: str) -> list[str]:
    """Return names that commas separate, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",")))
