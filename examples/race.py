"""Race this library against PyTorch: both train the same network on the same data for the same wall-clock time.

python examples/race.py                                  # five minutes each, --backends numba on the digits
python examples/race.py --minutes 20 --preset fashion-mini --backends numba,numpy --out race.png

Both start from the same weights, and use the same batches, times t, noise, Adam and learning rates. PyTorch runs the
twin of our U-Net in the tests, in the variant that is the fastest here by a short contest; its noise is drawn off the
clock. The racers take turns of some seconds, each in a process of its own with all threads. After every turn, also off
the clock, the loss of the averaged weights is measured on the same held-out samples in float32, so the race lasts
longer than its minutes. Ctrl-C ends it early and reports the turns so far. The curves are drawn in a picture, and their
numbers written beside it as JSON. With --save FOLDER each racer writes a run there, in our format, for `tinyddpm
sample`, `evaluate` and `nll`. Needs a copy of the repository with the packages of its tests: pip install -e '.[test]'.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import click

# Array libraries are imported where they are used: the racers' processes import this file, then set their threads.
from tinyddpm.bench.peers import find_peer, load_peer
from tinyddpm.bench.process import PeerError, Runner
from tinyddpm.bench.task import Task, make_task
from tinyddpm.cli.bench import names
from tinyddpm.cli.options import configuration, configuration_options, option
from tinyddpm.errors import ConfigError, TinyDDPMError
from tinyddpm.model.config import Config
from tinyddpm.model.tables import AUTO, ConditionConfig
from tinyddpm.progress import Progress, duration

HERE = Path(__file__).resolve()

OURS, TORCH = "tinyddpm", "torch"
"""First words of the racers' names; our backend or the twin's variant follows."""

TURN, FEWEST, MOST = 5.0, 20, 100
"""Seconds of a turn, and limits of the number of turns, which change the seconds for very short and long races."""

ROUNDS = 3
"""Number of turns of each variant in the contest for the fastest variant of the twin."""

WARM_UP = 3
"""Untimed steps before the race; their weights are discarded."""

ROWS = 10
"""Number of moments in the table after the start."""


@dataclass
class Track:
    """The progress of a racer: its seconds, its held-out loss and its steps, at the start and after each turn."""

    description: str
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def turn(self, seconds: float, steps: int, loss: float) -> None:
        """Add a turn: its seconds, its steps, and the held-out loss after it."""
        self.seconds.append(seconds + (self.seconds[-1] if self.seconds else 0.0))
        self.steps.append(steps + (self.steps[-1] if self.steps else 0))
        self.losses.append(loss)

    def loss_at(self, seconds: float) -> float:
        """Return the loss at a moment, interpolated linearly between two turns."""
        import numpy as np

        return float(np.interp(seconds, self.seconds, self.losses))

    def moment_of(self, loss: float) -> float | None:
        """Return the seconds at the end of the first turn that reached this loss; None if none did."""
        return next((s for s, reached in zip(self.seconds, self.losses, strict=True) if reached <= loss), None)


class Ours:
    """This library in the race."""

    def __init__(self, task: Task) -> None:
        from tinyddpm.backend import load_backend
        from tinyddpm.training.assembly import make_trainer, open_data

        config = task.config
        self.backend = load_backend(config.backend, config.device, config.precision, config.graph)
        dataset = open_data(config)
        warming = make_trainer(config, self.backend, dataset)
        for _ in range(WARM_UP):
            warming.train_step()
        self.trainer = make_trainer(config, self.backend, dataset)
        self.parameters = self.trainer.model.layout.size

    def describe(self) -> str:
        """Return the backend's description."""
        return self.backend.describe()

    def train_for(self, seconds: float) -> tuple[float, int]:
        """Train for at least this long, at least one step; return the seconds and the number of steps."""
        began, first = time.perf_counter(), self.trainer.step
        while self.trainer.step == first or time.perf_counter() - began < seconds:
            self.trainer.train_step()
            self.backend.synchronize()
        return time.perf_counter() - began, self.trainer.step - first

    def held_out_loss(self) -> float:
        """Return the held-out loss of the averaged weights."""
        return self.trainer.validation_loss()

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        self.trainer.save(path, {})


def variants(task: Task, compiled: bool) -> list[str]:
    """Return the names of this file's own racers; with `make`, this is the protocol `tinyddpm.bench.task.Peer`."""
    return [OURS]


def make(task: Task, variant: str) -> Any:
    """Return our racer, or the twin in a variant. Called in the racer's process."""
    if variant == OURS:
        return Ours(task)
    peer: Any = load_peer(find_peer(TORCH))
    return peer.TorchRacer(task, variant)


def fastest_twin(task: Task, chosen: Sequence[str] | None, compiled: bool, say: Callable[[str], None]) -> str:
    """Return the variant of the twin that trains fastest, by the median time of a step in alternating turns."""
    from tinyddpm.bench.contest import alternate, rivals

    with ExitStack() as stack:
        contestants = []
        for variant in rivals(task, find_peer(TORCH), chosen, compiled).values():
            runner = stack.enter_context(closing(Runner(variant, HERE, variant, task)))
            try:
                runner.ready()
                contestants.append(runner)
            except PeerError as error:
                say(f"left out: {error}")
        if not contestants:
            raise ConfigError("no variant of the twin can run: there is no race")
        times = {name: median(each) for name, each in alternate(contestants, "train_step", ROUNDS).items()}
    say("; ".join(f"{TORCH} {name} {1e3 * seconds:.1f} ms a step" for name, seconds in times.items()))
    return min(times, key=lambda name: times[name])


def race(runners: Sequence[Runner], seconds: float, watch: Callable[[float], None]) -> dict[str, Track]:
    """Train each racer for `seconds`, in turns, and return their tracks by name. Ctrl-C ends the race early."""
    from tinyddpm.bench.contest import REST

    tracks = {runner.name: Track(runner.description) for runner in runners}
    for runner in runners:
        tracks[runner.name].turn(0.0, 0, runner.ask("held_out_loss"))
    turn = min(max(TURN, seconds / MOST), seconds / FEWEST)
    with suppress(KeyboardInterrupt):
        while any(track.seconds[-1] < seconds for track in tracks.values()):
            for runner in runners:
                if tracks[runner.name].seconds[-1] < seconds:
                    time.sleep(REST)
                    spent, steps = runner.ask("train_for", turn)
                    tracks[runner.name].turn(spent, steps, runner.ask("held_out_loss"))
            watch(min(track.seconds[-1] for track in tracks.values()))
    return tracks


def save(runners: Sequence[Runner], folder: Path) -> None:
    """Have each racer write its run into a folder of its name."""
    from tinyddpm.model.load import CHECKPOINT

    for runner in runners:
        its = folder / runner.name.replace(" ", "-")
        its.mkdir(parents=True, exist_ok=True)
        runner.ask("save", its / CHECKPOINT)


def table(tracks: dict[str, Track], batch_size: int) -> Iterator[str]:
    """Yield the lines of the table: held-out losses at some moments, steps and rate of each racer."""
    end = min(track.seconds[-1] for track in tracks.values())
    width = max(map(len, tracks)) + 2
    yield f"{'held-out loss after':<22}" + "".join(f"{name:>{width}}" for name in tracks)
    for number in range(ROWS + 1):
        moment = end * number / ROWS
        losses = "".join(f"{track.loss_at(moment):>{width}.5f}" for track in tracks.values())
        yield f"{f'{moment:.1f} s':<22}{losses}"
    yield f"{'steps':<22}" + "".join(f"{track.steps[-1]:>{width},}" for track in tracks.values())
    rates = (batch_size * track.steps[-1] / track.seconds[-1] for track in tracks.values())
    yield f"{'images/s':<22}" + "".join(f"{rate:>{width},.1f}" for rate in rates)
    *ours, twin = tracks
    goal, end = tracks[twin].losses[-1], tracks[twin].seconds[-1]
    for name in ours:
        reached = tracks[name].moment_of(goal)
        if reached:
            yield f"{name} reaches the last loss of {twin} after {duration(reached)}, {end / reached:.2f} times as fast"
        else:
            yield f"{name} does not reach the last loss of {twin} in this time"


def check(config: Config) -> None:
    """Raise ConfigError for settings that the twin does not have: it predicts eps by the simple loss, given classes."""
    training = config.training
    for setting, value, usual in (
        ("training.predict", training.predict, ("eps",)),
        ("training.loss", training.loss, ("simple",)),
        ("training.times", training.times, (AUTO, "uniform")),
        ("weighting.name", config.weighting.name, ("simple",)),
        ("condition", config.condition, (ConditionConfig(),)),
        ("schedule.zero_terminal_snr", config.schedule.zero_terminal_snr, (False,)),
    ):
        if value not in usual:
            raise ConfigError(f"{setting} is {value!r}, but PyTorch's twin takes only {usual[0]!r}: race with that")


@click.command()
@option("--minutes", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, help="Of each racer.")
@option("--backends", default="numba", show_default=True, help="Our backends, such as numba,numpy.")
@option("--variants", help="PyTorch's variants in the contest, such as eager,channels_last; all if not given.")
@option("--compile", "compiled", is_flag=True, help="Include torch.compile in the contest.")
@option("--out", type=click.Path(path_type=Path), default="race.png", show_default=True, help="Picture to write.")
@option("--save", "runs", type=click.Path(path_type=Path), help="Folder for a run of each racer; none if not given.")
@configuration_options
def main(
    *,
    minutes: float,
    backends: str,
    variants: str | None,
    compiled: bool,
    out: Path,
    runs: Path | None,
    preset_name: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    **values: Any,
) -> None:
    """Race against PyTorch, and draw held-out loss over seconds of training."""
    try:
        config = configuration(preset_name, config_file, assignments, values)
        check(config)
        chosen = names(variants) if variants else None
        run(config, preset_name, 60 * minutes, names(backends), chosen, compiled, out, runs)
    except TinyDDPMError as error:
        raise click.ClickException(str(error)) from error


def run(
    config: Config,
    preset_name: str | None,
    seconds: float,
    backends: list[str],
    chosen: list[str] | None,
    compiled: bool,
    out: Path,
    runs: Path | None,
) -> None:
    """Find the twin's fastest variant, race, draw the curves, and print the table."""
    from tinyddpm.figures.images import save_png
    from tinyddpm.figures.lines import line_picture
    from tinyddpm.files import replacing
    from tinyddpm.machine import cpu_model

    progress, whole, shown = Progress(), max(1, round(seconds)), 0

    def watch(done: float) -> None:
        nonlocal shown
        if min(int(done), whole) > shown:
            shown = min(int(done), whole)
            progress.update(shown, whole, "seconds of each")

    task = make_task(replace(config, backend=backends[0]), preset_name)
    with ExitStack() as stack:

        def start(name: str, variant: str, its: Task) -> Runner:
            runner = stack.enter_context(closing(Runner(name, HERE, variant, its)))
            runner.ready()
            return runner

        runners = [start(f"{OURS} {backend}", OURS, task.by(backend)) for backend in backends]
        best = fastest_twin(task, chosen, compiled, progress.say)
        runners.append(start(f"{TORCH} {best}", best, task))
        tracks = race(runners, seconds, watch)
        if runs:
            save(runners, runs)
    progress.close()
    what = f"{task.parameters:,} parameters, {config.data.source}, batch {task.batch_size}"
    place = f"{cpu_model()}, {task.threads} thread{'s' if task.threads > 1 else ''}"
    curves = {f"{name}, {track.steps[-1]:,} steps": (track.seconds, track.losses) for name, track in tracks.items()}
    save_png(out, line_picture(curves, f"Held-out loss: {what}", f"seconds of training ({place})"))
    found = {"task": what, "machine": place, "racers": {name: asdict(track) for name, track in tracks.items()}}
    with replacing(out.with_suffix(".json")) as file:
        file.write(json.dumps(found).encode())
    click.echo(f"{what}; {place}")
    for name, track in tracks.items():
        click.echo(f"{name}: {track.description}")
    for line in table(tracks, task.batch_size):
        click.echo(line)


if __name__ == "__main__":
    main()
