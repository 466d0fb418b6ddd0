"""The contest: turns in alternation, and what the times come to.

We meet one peer after the other, for a GPU's memory may not hold more than two contestants. What warms, slows or crowds
a machine over minutes reaches the two in a meeting alike, so our ratio to a peer is of the turns of that meeting alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

from tinyddpm.bench.ours import Profile
from tinyddpm.bench.peers import load_peer
from tinyddpm.bench.process import BenchError, PeerError, Runner
from tinyddpm.bench.task import Task

OURS = "tinyddpm"

KINDS = ("train", "denoise")
"""The two kinds of step."""

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
        train: seconds of a training step, in each of its turns; of ours, in those of all meetings.
        denoise: seconds of a denoising step, likewise.
        memory: bytes by which its process grew at its peak, from before its network was made until after its first
            training steps; on a GPU, the most that they took of it. None where that is not known.
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
        ratios: for `train` and `denoise`, by which factor we were faster than each peer, by the median times of the
            turns in which we met it.
        left_out: the peers that could not run, and why.
        matrix_rate: floating-point operations a second of a large matrix product on as many threads.
        profile: our training step by operation.
    """

    standings: dict[str, Standing]
    ratios: dict[str, dict[str, float]]
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
        """Return by which factor we were faster than the fastest peer, and its name; None if alone.

        Args:
            kind: `train` or `denoise`.
        """
        ratios = self.ratios[kind]
        if not ratios:
            return None
        fastest = min(ratios, key=lambda name: ratios[name])
        return ratios[fastest], fastest


def alternate(
    contestants: Sequence[Timed], kind: str, rounds: int, watch: Callable[[int], None] = lambda done: None
) -> dict[str, list[float]]:
    """Return the seconds of a step in each round, by contestant, who take turns: A B A B …

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
    task: Task,
    peer: Path | None,
    rounds: int,
    compiled: bool,
    watch: Callable[[str, int], None] = lambda name, done: None,
) -> Outcome:
    """Run the task by this library, and beside it by one variant of a peer after the other.

    A variant that fails is left out. An interrupt (Ctrl-C) ends the contest early: the outcome is that of the meetings
    that are over, and the other variants are left out. Where none is over, the interrupt is raised.

    Args:
        task: what to run.
        peer: the peer's file, or None.
        rounds: timed turns of each in a meeting, for training and for denoising.
        compiled: whether variants that must be compiled first take part.
        watch: called with the name of the peer we meet, or ours if alone, and the number of rounds done in that
            meeting, of twice `rounds`, for progress.

    Raises:
        BenchError: we failed, or all of the peer's variants did.
        TinyDDPMError: the peer cannot be used, or has no equal of this network.
    """
    label = peer.stem.removesuffix("_peer") if peer else ""
    variants = load_peer(peer).variants(task, compiled) if peer else []
    rivals = {f"{label} {variant}": variant for variant in variants}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    ratios: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    standings: dict[str, Standing] = {}
    left_out: dict[str, str] = {}
    with closing(Runner(OURS, None, "", task)) as ours:
        our_memory = _warm_up(ours)
        if peer is None:
            seconds = {kind: turns[OURS] for kind, turns in _meet([ours], rounds, watch).items()}
        try:
            for name, variant in rivals.items():
                try:
                    with closing(Runner(name, peer, variant, task)) as rival:
                        memory = _warm_up(rival)
                        meeting = _meet([ours, rival], rounds, watch)
                except PeerError as error:
                    left_out[name] = str(error)
                    continue
                standings[name] = Standing(rival.description, meeting["train"][name], meeting["denoise"][name], memory)
                for kind in KINDS:
                    seconds[kind] += meeting[kind][OURS]
                    ratios[kind][name] = median(meeting[kind][name]) / median(meeting[kind][OURS])
        except KeyboardInterrupt:
            if not standings:
                raise
            waiting = [name for name in rivals if name not in standings | left_out]
            left_out |= {name: f"{name}: the contest was stopped before its turns were over" for name in waiting}
        if peer and not standings:
            raise BenchError(f"no variant of the peer can run: {'; '.join(left_out.values())}")
        standings = {OURS: Standing(ours.description, seconds["train"], seconds["denoise"], our_memory)} | standings
        return Outcome(standings, ratios, left_out, ours.ask("matrix_rate"), ours.ask("profile"))


def _warm_up(runner: Runner) -> int | None:
    """Wait until it is there, and have it take its first steps of both kinds; return the memory that training took."""
    runner.ready()
    _take_steps(runner, "train_step")
    memory = runner.memory()
    _take_steps(runner, "denoise_step")
    return memory


def _take_steps(runner: Runner, kind: str) -> None:
    for _ in range(WARM_UP):
        runner.turn(kind, 0.0)


def _meet(
    runners: Sequence[Runner], rounds: int, watch: Callable[[str, int], None]
) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of a step in each turn, by kind and by contestant."""
    name = runners[-1].name
    train = alternate(runners, "train_step", rounds, lambda done: watch(name, done))
    denoise = alternate(runners, "denoise_step", rounds, lambda done: watch(name, rounds + done))
    return {"train": train, "denoise": denoise}
