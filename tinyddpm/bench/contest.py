"""The contest: turns in alternation, and what the times come to.

Our backends meet one peer after the other, for a GPU's memory may not hold more. What warms, slows or crowds a machine
over minutes reaches those in a meeting alike, so a ratio is of the turns of one meeting alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

from tinyddpm import registry
from tinyddpm.bench.operations import Row
from tinyddpm.bench.ours import Profile
from tinyddpm.bench.peers import load_peer
from tinyddpm.bench.process import BenchError, PeerError, Runner
from tinyddpm.bench.task import Task
from tinyddpm.errors import ConfigError, unknown

OURS = "tinyddpm"
"""What our contestants are called, followed by the backend."""

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
        ratios: for `train` and `denoise`, by which factor each of ours was faster than each peer, by the median times
            of the turns in which they met: `ratios[kind][ours][peer]`, with no peer in it if we were alone.
        left_out: who could not run, and why.
        matrix_rate: floating-point operations a second of a large matrix product on as many threads, of our backends'
            the most.
        profiles: a training step of each of ours by operation.
    """

    standings: dict[str, Standing]
    ratios: dict[str, dict[str, dict[str, float]]]
    left_out: dict[str, str]
    matrix_rate: float
    profiles: dict[str, Profile]

    @property
    def train_flop(self) -> int:
        """Floating-point operations of a training step."""
        return sum(row.flop for row in self._rows)

    @property
    def denoise_flop(self) -> int:
        """Floating-point operations of a denoising step: those of the forward pass."""
        return sum(row.flop for row in self._rows if not row.backward)

    @property
    def _rows(self) -> list[Row]:
        """The operations of one of ours; what they stand for is the same for all."""
        return next(iter(self.profiles.values())).rows

    def fastest(self, kind: str, ours: str) -> tuple[float, str] | None:
        """Return by which factor one of ours was faster than the fastest peer, and the peer's name; None if alone.

        Args:
            kind: `train` or `denoise`.
            ours: its name.
        """
        ratios = self.ratios[kind][ours]
        if not ratios:
            return None
        peer = min(ratios, key=lambda name: ratios[name])
        return ratios[peer], peer


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
    backends: Sequence[str],
    peer: Path | None,
    rounds: int,
    chosen: Sequence[str] | None = None,
    compiled: bool = False,
    watch: Callable[[str, int], None] = lambda name, done: None,
) -> Outcome:
    """Run the task by this library on some backends, and beside them by one variant of a peer after the other.

    A backend that cannot start and a variant that fails are left out. An interrupt (Ctrl-C) ends the contest early: the
    outcome is that of the meetings that are over, and the other variants are left out. Where none is over, the
    interrupt is raised.

    Args:
        task: what to run.
        backends: the names of ours; the task's own backend says where the peer computes.
        peer: the peer's file, or None.
        rounds: timed turns of each in a meeting, for training and for denoising.
        chosen: the variants that take part; None for all.
        compiled: whether variants that must be compiled first take part, if none are chosen.
        watch: called with the name of the peer we meet, or of our last if alone, and the number of rounds done in that
            meeting, of twice `rounds`, for progress.

    Raises:
        BenchError: none of our backends can start, one fails later, or all of the peer's variants fail.
        TinyDDPMError: a backend or a variant is unknown, or the peer cannot be used or has no equal of this network.
    """
    for backend in backends:
        registry.find("backends", backend)
    against = rivals(task, peer, chosen, compiled)
    with ExitStack() as stack:
        ours, our_memory, left_out = _start_ours(task, backends, stack)
        seconds: dict[str, dict[str, list[float]]] = {kind: {us.name: [] for us in ours} for kind in KINDS}
        ratios: dict[str, dict[str, dict[str, float]]] = {kind: {us.name: {} for us in ours} for kind in KINDS}
        standings: dict[str, Standing] = {}
        if peer is None:
            seconds = _meet(ours, rounds, watch)
        try:
            for name, variant in against.items():
                try:
                    with closing(Runner(name, peer, variant, task)) as rival:
                        memory = _warm_up(rival)
                        meeting = _meet([*ours, rival], rounds, watch)
                except PeerError as error:
                    left_out[name] = str(error)
                    continue
                standings[name] = Standing(rival.description, meeting["train"][name], meeting["denoise"][name], memory)
                for kind in KINDS:
                    for us in seconds[kind]:
                        seconds[kind][us] += meeting[kind][us]
                        ratios[kind][us][name] = median(meeting[kind][name]) / median(meeting[kind][us])
        except KeyboardInterrupt:
            if not standings:
                raise
            waiting = [name for name in against if name not in standings | left_out]
            left_out |= {name: f"{name}: the contest was stopped before its turns were over" for name in waiting}
        if peer and not standings:
            failures = "; ".join(left_out[name] for name in against)
            raise BenchError(f"no variant of the peer can run: {failures}")
        our_standings = {
            us.name: Standing(us.description, seconds["train"][us.name], seconds["denoise"][us.name], memory)
            for us, memory in zip(ours, our_memory, strict=True)
        }
        matrix_rate = max(us.ask("matrix_rate") for us in ours)
        profiles = {us.name: us.ask("profile") for us in ours}
        return Outcome(our_standings | standings, ratios, left_out, matrix_rate, profiles)


def step_seconds(task: Task, rounds: int) -> list[float]:
    """Return the seconds of a training step of this library, alone, in each of some turns.

    Raises:
        BenchError: it cannot start, or fails.
    """
    with closing(Runner(f"{OURS} {task.config.backend}", None, "", task)) as ours:
        ours.ready()
        _take_steps(ours, "train_step")
        return alternate([ours], "train_step", rounds)[ours.name]


def rivals(task: Task, peer: Path | None, chosen: Sequence[str] | None, compiled: bool) -> dict[str, str]:
    """Return the variants of the peer that take part, by the name that they go by.

    Raises:
        ConfigError: one that is chosen is not there.
    """
    if peer is None:
        if chosen is not None:
            raise ConfigError("variants are chosen among a peer's: give --peer too, or leave --variants out")
        return {}
    there = load_peer(peer).variants(task, compiled or chosen is not None)
    for name in chosen or ():
        if name not in there:
            raise ConfigError(unknown("variant", name, there))
    label = peer.stem.removesuffix("_peer")
    return {f"{label} {variant}": variant for variant in there if chosen is None or variant in chosen}


def _start_ours(
    task: Task, backends: Sequence[str], stack: ExitStack
) -> tuple[list[Runner], list[int | None], dict[str, str]]:
    """Return our contestants, warmed up, with the memory that training took; and why others cannot start, by name.

    Raises:
        BenchError: none can start.
    """
    ours, memory, left_out = [], [], {}
    for backend in backends:
        runner = stack.enter_context(closing(Runner(f"{OURS} {backend}", None, "", task.by(backend))))
        try:
            memory.append(_warm_up(runner))
            ours.append(runner)
        except BenchError as error:
            left_out[runner.name] = str(error)
    if not ours:
        raise BenchError("; ".join(left_out.values()))
    return ours, memory, left_out


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
