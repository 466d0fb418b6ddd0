"""The contest: our backends and a peer take turns, and the ratio of their median times is the result.

Our backends meet one peer after the other, because a GPU's memory may not hold more of them. A machine's speed drifts
over minutes. The drift is the same for all contestants of one meeting, so each ratio is computed within one meeting.
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
from tinyddpm.bench.ours import Profile
from tinyddpm.bench.peers import load_peer
from tinyddpm.bench.process import BenchError, PeerError, Runner
from tinyddpm.bench.task import Task
from tinyddpm.errors import ConfigError, unknown

OURS = "tinyddpm"
"""First word of the names of our contestants; the second is the backend."""

KINDS = ("train", "denoise")
"""The two kinds of step."""

TURN = 0.5
"""Shortest duration of a turn in seconds: many short steps, or one long one."""

REST = 0.2
"""Seconds before a turn, in which the threads of the previous contestant stop spinning and go to sleep."""

WARM_UP = 3
"""Untimed steps before the first turn. torch.compile compiles in the first step, and may recompile in the second."""


class Timed(Protocol):
    """A contestant that takes turns, such as a `Runner`."""

    name: str

    def turn(self, kind: str, seconds: float) -> float:
        """Take steps for at least this long; return the seconds of one step."""
        ...


@dataclass(frozen=True)
class Standing:
    """The measurements of one contestant.

    Attributes:
        description: its libraries.
        train: seconds of a training step in each of its turns, for our backends the turns of all meetings.
        denoise: seconds of a denoising step in each of its turns.
        memory: bytes by which its process grew at its peak, from before its network was made until after its first
            training steps; on a GPU, the peak of its memory there. None where that is unknown.
    """

    description: str
    train: list[float]
    denoise: list[float]
    memory: int | None


@dataclass(frozen=True)
class Outcome:
    """The measurements of all contestants.

    Attributes:
        standings: measurements of each contestant by its name, ours first.
        ratios: `ratios[kind][ours][peer]` is the median time of the peer's step divided by that of ours, in the turns
            of their meeting; `kind` is `train` or `denoise`. Without a peer, `ratios[kind][ours]` is empty.
        left_out: the reason for each contestant that could not run, by its name.
        matrix_rate: floating-point operations per second of a large matrix product, with as many threads, on the
            fastest of our backends.
        profiles: a training step of each of our backends, by operation.
    """

    standings: dict[str, Standing]
    ratios: dict[str, dict[str, dict[str, float]]]
    left_out: dict[str, str]
    matrix_rate: float
    profiles: dict[str, Profile]

    @property
    def train_flop(self) -> int:
        """Floating-point operations of a training step, whose backward has two products for each of the forward."""
        return 3 * self.denoise_flop

    @property
    def denoise_flop(self) -> int:
        """Floating-point operations of one evaluation of the network.

        The backward's products are counted, since a step that recomputes runs those of the forward twice.
        """
        rows = next(iter(self.profiles.values())).rows  # the arithmetic is the same on all our backends
        return sum(row.flop for row in rows if row.backward) // 2

    def fastest(self, kind: str, ours: str) -> tuple[float, str] | None:
        """Return the ratio of one of our contestants to the fastest peer, and the peer's name; None without a peer.

        Args:
            kind: `train` or `denoise`.
            ours: name of our contestant.
        """
        ratios = self.ratios[kind][ours]
        if not ratios:
            return None
        peer = min(ratios, key=lambda name: ratios[name])
        return ratios[peer], peer


def alternate(
    contestants: Sequence[Timed], kind: str, rounds: int, watch: Callable[[int], None] = lambda done: None
) -> dict[str, list[float]]:
    """Return the seconds of a step in each round, by contestant. They take turns: A B A B …

    Args:
        contestants: in the order of their turns.
        kind: `train_step` or `denoise_step`.
        rounds: number of turns of each.
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
    """Run a task by this library on some backends, and beside them by one variant of a peer after the other.

    A backend that cannot start and a variant that fails are left out. An interrupt (Ctrl-C) ends the contest early: the
    outcome has the meetings that are complete, and the other variants are left out. If none is complete, the interrupt
    is raised.

    Args:
        task: network and steps to run.
        backends: names of our backends. The task's own backend determines the device of the peer.
        peer: the peer's file, or None.
        rounds: number of timed turns of each contestant in a meeting, for training and for denoising.
        chosen: names of the variants that take part; None for all.
        compiled: whether variants that must be compiled first take part, if none are chosen.
        watch: called for progress with the name of the peer, or of our last backend without one, and the number of
            rounds done in the meeting, out of twice `rounds`.

    Raises:
        BenchError: none of our backends can start, one fails later, or all variants of the peer fail.
        TinyDDPMError: a backend or a variant is unknown, or the peer cannot be used or cannot run this network.
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
    """Return the seconds of a training step of this library alone, in each of `rounds` turns.

    Raises:
        BenchError: its process cannot start, or fails.
    """
    with closing(Runner(f"{OURS} {task.config.backend}", None, "", task)) as ours:
        ours.ready()
        _take_steps(ours, "train_step")
        return alternate([ours], "train_step", rounds)[ours.name]


def rivals(task: Task, peer: Path | None, chosen: Sequence[str] | None, compiled: bool) -> dict[str, str]:
    """Return the variants of the peer that take part, by the names of the contestants.

    Raises:
        ConfigError: a chosen variant is unknown, or variants are asked for without a peer.
    """
    if peer is None:
        if chosen is not None:
            raise ConfigError("variants are chosen among a peer's: give --peer too, or leave --variants out")
        if compiled:
            raise ConfigError("compiled variants are a peer's: give --peer too, or leave --compile out")
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
    """Return our contestants, warmed up, the memory of their training, and the reasons of those that cannot start.

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
    """Wait for a contestant, and run its first steps of both kinds; return the memory of its training in bytes."""
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
