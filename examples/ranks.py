"""Measure training steps on ranks of this machine, beside the prediction of `tinyddpm bench --ranks`.

python examples/ranks.py                                    # 2 and 4 ranks, a network of 1.62 million parameters
python examples/ranks.py --rounds 9 --set backend=numba
python examples/ranks.py --ranks 2 --preset digits --set training.batch_size=16 --launcher "mpiexec --oversubscribe"

One process on all cores, and ranks started by mpiexec, take turns, each turn in new processes: A B C A B C ... All take
training steps on the same batch, which ranks divide. Ranks measure two more things: sums of several sizes, to which a
link is fitted; and steps without a sum, each rank on its part of the batch, all at the same time. The compute of a rank
thus includes the contention for cores and memory, as of four ranks on two cores. The prediction is this compute plus
the sum over this link, and stands beside the measured step. All numbers are medians; for ranks, those of the slowest
one. Needs mpi4py and an mpiexec: pip install 'tinyddpm[mpi]'.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from tinyddpm.bench.scaling import Job, Link, fitted_link, foretell, parse_ranks
from tinyddpm.bench.task import Task, make_task
from tinyddpm.cli.options import parse_assignments
from tinyddpm.cli.ranks import shared
from tinyddpm.errors import ConfigError, TinyDDPMError
from tinyddpm.machine import cpu_model, versions
from tinyddpm.model.config import Config, preset
from tinyddpm.model.tables import SUMS
from tinyddpm.progress import Progress

if TYPE_CHECKING:
    from tinyddpm.backend import Array, Backend
    from tinyddpm.distributed.group import Group
    from tinyddpm.training.trainer import Trainer

PACKAGES = ("tinyddpm", "numpy", "numba", "mpi4py", "mpich", "openmpi")

NETWORK = {
    "data": {"image_size": "32x32", "labels": False},
    "network": {"channels": 32, "attention": [16], "dropout": 0.0},
    "training": {"batch_size": 32},
}
"""Settings if no preset is named: the network of the preset `fashion-mnist`, of 1.62 million parameters."""

SIZES = "100000,1000000,10000000,40000000"
"""Numbers of float32 that are summed."""

MOST_SUMS, NUMBERS = 20, 10_000_000
"""Largest number of sums of a size in a turn; and the float32 numbers that these sums, at least 3, take together."""

WARM_UP = 2
"""Untimed steps, and untimed sums, before the first timed one."""

STRETCH = 4
"""Steps with a sum and steps without alternate in stretches of this length."""

BESIDE = Path(sys.executable).with_name("mpiexec")
"""The launcher of the package mpich, in this environment."""

Found = dict[str, Any]


@click.command()
@click.option("--ranks", default="2,4", show_default=True, help="Numbers of ranks, separated by commas.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns of each.")
@click.option("--steps", type=click.IntRange(1), default=12, show_default=True, help="Training steps in a turn.")
@click.option("--sizes", default=SIZES, show_default=True, help="Sizes of sums in float32 numbers, at least two.")
@click.option("--launcher", default=str(BESIDE) if BESIDE.exists() else "mpiexec", help="Launcher that takes -n RANKS.")
@click.option("--preset", "preset_name", help="Train this preset's network instead.")
@click.option("--set", "assignments", multiple=True, metavar="TABLE.KEY=VALUE", help="Any setting, as for train.")
@click.option("--json", "as_json", is_flag=True, help="Print all measurements as one JSON object.")
def main(
    *,
    ranks: str,
    rounds: int,
    steps: int,
    sizes: str,
    launcher: str,
    preset_name: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure training steps and sums of ranks, and compare them with the prediction."""
    chosen = preset(preset_name).config if preset_name else preset("fashion-mnist").config.updated(NETWORK)
    config = chosen.updated(parse_assignments(assignments, depth=3), "--set")
    counts, summed = parse_ranks(ranks), parse_sizes(sizes)
    check(config, counts)
    task = make_task(config, preset_name or "fashion-mnist")
    turns = measure(config, preset_name, counts, rounds, steps, summed, shlex.split(launcher))
    found = outcome(task, turns)
    for line in [json.dumps(found)] if as_json else table(found):
        click.echo(line)


def parse_sizes(text: str) -> list[int]:
    """Return the sizes in a text such as "100000,1000000", ascending.

    Raises:
        ConfigError: there are fewer than two.
    """
    found = sorted({int(size) for size in text.split(",") if size.strip().isdecimal() and int(size)})
    if len(found) < 2:
        raise ConfigError(f"--sizes {text!r}: write two sizes or more with commas between, such as 100000,1000000")
    return found


def check(config: Config, counts: list[int]) -> None:
    """Raise ConfigError if a number of ranks is 1, or does not divide the batch."""
    for count in counts:
        if count < 2:
            raise ConfigError("--ranks 1: one process is measured in any case, give numbers from 2 on")
        if config.training.batch_size % count:
            raise ConfigError(
                f"--ranks {count} does not divide the batch of {config.training.batch_size}: give another batch by"
                " --set training.batch_size=N"
            )


def measure(
    config: Config,
    preset_name: str | None,
    counts: list[int],
    rounds: int,
    steps: int,
    sizes: list[int],
    launcher: list[str],
) -> dict[int, list[Found]]:
    """Return the measurements of each turn, by the number of ranks."""
    wanted = json.dumps({"config": config.to_dict(), "preset": preset_name, "steps": steps, "sizes": sizes})
    turns: dict[int, list[Found]] = {count: [] for count in (1, *counts)}
    progress = Progress()
    for number in range(rounds):
        for count, found in turns.items():
            command = [*launcher, "-n", str(count)] if count > 1 else []
            found.append(run([*command, sys.executable, __file__, TURN, wanted]))
        if sys.stderr.isatty():
            progress.update(number + 1, rounds, "rounds")
    progress.close()
    return turns


def run(command: list[str]) -> Found:
    """Run a turn in new processes, and return its measurements.

    Raises:
        TinyDDPMError: the processes cannot start, or fail.
    """
    # If this process was itself started by a launcher, the turn must not inherit the launcher's variables.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PMI_", "OMPI_", "MPI_"))}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise TinyDDPMError(
            f"{command[0]} cannot be run ({error.strerror}): give --launcher, such as mpiexec"
        ) from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        line = next((line for line in said if line.startswith("Error: ")), said[-1])
        raise TinyDDPMError(f"a turn ended with exit code {done.returncode}: {line.removeprefix('Error: ')}")
    result: Found = json.loads(done.stdout.splitlines()[-1])
    return result


TURN = "turn"
"""First argument of a process that takes a turn; the second is the turn's settings as JSON."""


@click.command()
@click.argument("wanted")
@shared
def turn(wanted: str, group: Group) -> None:
    """Time training steps, and for ranks also sums and steps without a sum; print the seconds as JSON."""
    told = json.loads(wanted)
    config, steps = Config.from_dict(told["config"], "turn"), told["steps"]
    backend = group.load_backend(config.backend, config.device, config.precision, config.graph)

    import numpy as np

    from tinyddpm.bench.ours import noise_dataset
    from tinyddpm.training.assembly import make_trainer, with_threads

    task = make_task(with_threads(config, backend, group), told["preset"] or "fashion-mnist")
    dataset = noise_dataset(task)
    together = make_trainer(task.config, backend, dataset, group=group)
    if group.size == 1:
        timed(together, WARM_UP)
        click.echo(json.dumps({"threads": task.threads, "step": timed(together, steps)}))
        return
    part = replace(task.config.training, batch_size=task.batch_size // group.size, shard=False)
    alone = make_trainer(replace(task.config, training=part), backend, dataset)
    found: dict[str, list[float]] = {"step": [], "compute": []}
    for trainer in (together, alone):
        timed(trainer, WARM_UP)
    for done in range(0, steps, STRETCH):
        for name, trainer in (("step", together), ("compute", alone)):
            group.barrier()
            found[name] += slowest(group, timed(trainer, min(STRETCH, steps - done)))
    sums = {}
    for size in sorted({*told["sizes"], task.parameters}):
        flat = backend.asarray(np.zeros(size, np.float32))
        sums[size] = {kind: timed_sums(group, backend, flat, kind) for kind in SUMS}
    click.echo(json.dumps({"threads": task.threads, **found, "sums": sums}))


def timed(trainer: Trainer, steps: int) -> list[float]:
    """Return the seconds of each of `steps` training steps."""
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        trainer.train_step()
        trainer.model.backend.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


def timed_sums(group: Group, backend: Backend, flat: Array, kind: str) -> list[float]:
    """Return the seconds of each of several sums of an array over the ranks."""
    seconds, count = [], min(MOST_SUMS, max(3, NUMBERS // flat.shape[0]))
    for _ in range(WARM_UP + count):
        group.barrier()
        began = time.perf_counter()
        with backend.scope():
            group.sum_(flat, kind)
        backend.synchronize()
        seconds.append(time.perf_counter() - began)
    return slowest(group, seconds[WARM_UP:])


def slowest(group: Group, seconds: list[float]) -> list[float]:
    """Return the seconds of the slowest rank, for each of the timed steps or sums."""
    return list(map(max, zip(*group.gather(seconds), strict=True)))


def outcome(task: Task, turns: dict[int, list[Found]]) -> Found:
    """Return the report of all turns, for `json.dumps`: medians over all timed steps and sums, in seconds."""

    def middle(found: list[Found], name: str) -> float:
        return float(median(second for each in found for second in each[name]))

    one, *others = turns.items()
    whole = middle(one[1], "step")
    result: Found = {
        "machine": cpu_model(),
        "cores": os.cpu_count(),
        "versions": versions(PACKAGES),
        "backend": task.config.backend,
        "parameters": task.parameters,
        "batch_size": task.batch_size,
        "one_process": {"threads": one[1][0]["threads"], "step_seconds": whole},
        "ranks": [],
        "turns": turns,
    }
    for count, found in others:
        sums = {
            int(size): {kind: median(s for each in found for s in each["sums"][size][kind]) for kind in SUMS}
            for size in found[0]["sums"]
        }
        link = fitted_link([4 * size for size in sums], [of["fp32"] for of in sums.values()], count)
        step, compute, training = middle(found, "step"), middle(found, "compute"), task.config.training
        job = Job(task.parameters, task.batch_size // count, compute, training.sums, training.shard)
        foretold = foretell(job, count, link)
        result["ranks"].append(
            {
                "ranks": count,
                "threads": found[0]["threads"],
                "step_seconds": step,
                "times_one_process": whole / step,
                "compute_seconds": compute,
                "sent_seconds": foretold.sent,
                "foretold_seconds": foretold.after.seconds,
                "off": foretold.after.seconds / step - 1,
                "link": {"bytes_per_second": link.bandwidth, "latency_seconds": link.latency},
                "sum_seconds": sums,
            }
        )
    return result


def table(found: Found) -> Iterator[str]:
    """Yield the lines of the report."""
    ranks, one = found["ranks"], found["one_process"]
    yield f"{found['machine']}, {found['cores']} cores, backend {found['backend']}"
    yield ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    yield ""
    columns = [f"{each['ranks']} ranks, {kind}" for each in ranks for kind in SUMS]
    yield f"{'ms of a sum of':<24}" + "".join(f"{column:>18}" for column in columns)
    for size in ranks[0]["sum_seconds"]:
        seconds = [each["sum_seconds"][size][kind] for each in ranks for kind in SUMS]
        yield f"{size:>16,} numbers" + "".join(f"{1e3 * each:>18,.3f}" for each in seconds)
    for each in ranks:
        link = Link(each["link"]["bytes_per_second"], each["link"]["latency_seconds"])
        yield f"link between {each['ranks']} ranks, fitted to these sums in fp32: {link}"
    yield ""
    yield f"training steps of {found['parameters']:,} parameters, batch {found['batch_size']}"
    yield f"{'':<28}{'ms':>10}{'faster':>8}{'predicted ms':>14}{'compute':>10}{'sum':>9}{'error':>8}"
    yield f"{'1 process, threads: ' + str(one['threads']):<28}{1e3 * one['step_seconds']:>10,.2f}{1:>8.2f}"
    for each in ranks:
        numbers = [1e3 * each[f"{name}_seconds"] for name in ("foretold", "compute", "sent")]
        yield (
            f"{each['ranks']} ranks, threads of each: {each['threads']:<3}"
            f"{1e3 * each['step_seconds']:>10,.2f}{each['times_one_process']:>8.2f}"
            f"{numbers[0]:>14,.2f}{numbers[1]:>10,.2f}{numbers[2]:>9,.2f}{each['off']:>+8.1%}"
        )


if __name__ == "__main__":
    try:
        turn(sys.argv[2:]) if sys.argv[1:2] == [TURN] else main()
    except TinyDDPMError as error:
        sys.exit(f"Error: {error}")
