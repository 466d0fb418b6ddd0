"""The contest: turns in alternation, and what the times come to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

from tinyddpm.bench.ours import Profile
from tinyddpm.bench.peers import load_peer
from tinyddpm.bench.process import BenchError, Runner
from tinyddpm.bench.task import Task

OURS = "tinyddpm"

TURN = 0.5
"""Seconds that a turn lasts at least: many short steps, or one long one."""

REST = 0.2
"""Seconds before a turn, in which the threads of whoever was before stop waiting for more work and go to sleep."""


WARM_UP = 3
"""Steps before anything is timed. torch.compile compiles in the first, and may do so again for what that one made."""


class Timed(Protocol):
    """What takes turns: a `Runner`."""

    name: str

    def turn(self, kind: str, seconds: float) -> float:
        """Return the seconds of one step."""
        ...


@dataclass(frozen=True)
class Standing:
    """What was measured of one contestant.

    Attributes:
        description: its libraries.
        train: seconds of a training step, in each round.
        denoise: seconds of a denoising step, in each round.
        memory: bytes by which its process grew at its peak, from before its network was made until after its training
            steps; on a GPU, the most that they took of it. None where that is not known.
    """

    description: str
    train: list[float]
    denoise: list[float]
    memory: int | None


@dataclass(frozen=True)
class Outcome:
    """What was measured of all.

    Attributes:
        standings: by name, ours first.
        left_out: the peers that could not run, and why.
        matrix_rate: floating-point operations a second of a large matrix product on as many threads.
        profile: our training step by operation.
    """

    standings: dict[str, Standing]
    left_out: dict[str, str]
    matrix_rate: float
    profile: Profile

    @property
    def train_flop(self) -> int:
        """Floating-point operations of a training step."""
        return sum(row.flop for row in self.profile.rows)

    @property
    def denoise_flop(self) -> int:
        """Floating-point operations of a denoising step: those of the forward pass."""
        return sum(row.flop for row in self.profile.rows if not row.backward)

    def ratio(self, kind: str) -> tuple[float, str] | None:
        """Return by which factor we are faster than the fastest peer, by median times, and its name; None if alone.

        Args:
            kind: `train` or `denoise`.
        """
        times = {name: median(getattr(standing, kind)) for name, standing in self.standings.items()}
        ours = times.pop(OURS)
        if not times:
            return None
        fastest = min(times, key=lambda name: times[name])
        return times[fastest] / ours, fastest


def alternate(
    contestants: Sequence[Timed], kind: str, rounds: int, watch: Callable[[int], None] = lambda done: None
) -> dict[str, list[float]]:
    """Return the seconds of a step in each round, by contestant, who take turns: A B C A B C …

    Args:
        contestants: in the order of their turns.
        kind: `train_step` or `denoise_step`.
        rounds: turns of each.
        watch: called with the number of rounds done, for progress.
    """
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in contestants:
            time.sleep(REST)
            seconds[contestant.name].append(contestant.turn(kind, TURN))
        watch(number + 1)
    return seconds


def run_contest(
    task: Task, peer: Path | None, rounds: int, compiled: bool, watch: Callable[[int], None] = lambda done: None
) -> Outcome:
    """Run the task by this library and by all variants of a peer.

    Args:
        task: what to run.
        peer: the peer's file, or None.
        rounds: timed turns of each, for training and for denoising.
        compiled: whether variants that must be compiled first take part.
        watch: called with the number of rounds done, of twice `rounds`, for progress.

    Raises:
        BenchError: we failed, or a peer did after its first steps, or none of its variants can run.
        TinyDDPMError: the peer cannot be used, or has no equal of this network.
    """
    names: list[tuple[str, Path | None, str]] = [(OURS, None, "")]
    if peer:
        label = peer.stem.removesuffix("_peer")
        names += [(f"{label} {variant}", peer, variant) for variant in load_peer(peer).variants(task, compiled)]
    with ExitStack() as stack:
        runners = [stack.enter_context(closing(Runner(*name, task))) for name in names]
        left_out = _warm_up(runners)
        if peer and len(runners) == 1:
            raise BenchError(f"no variant of the peer can run: {'; '.join(left_out.values())}")
        train = alternate(runners, "train_step", rounds, watch)
        memory = {runner.name: runner.memory() for runner in runners}
        for runner in runners:
            _take_steps(runner, "denoise_step")
        denoise = alternate(runners, "denoise_step", rounds, lambda done: watch(rounds + done))
        standings = {
            runner.name: Standing(runner.description, train[runner.name], denoise[runner.name], memory[runner.name])
            for runner in runners
        }
        ours = runners[0]
        return Outcome(standings, left_out, ours.ask("matrix_rate"), ours.ask("profile"))


def _warm_up(runners: list[Runner]) -> dict[str, str]:
    """Have each take its first training steps; peers that cannot are taken out and returned with the reason."""
    left_out = {}
    for runner in list(runners):
        try:
            runner.ready()
            _take_steps(runner, "train_step")
        except BenchError as error:
            if runner.name == OURS:
                raise
            left_out[runner.name] = str(error)
            runner.close()
            runners.remove(runner)
    return left_out


def _take_steps(runner: Runner, kind: str) -> None:
    for _ in range(WARM_UP):
        runner.turn(kind, 0.0)
