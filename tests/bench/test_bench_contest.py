"""Who takes turns when, and what comes of the times; on contestants of known speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tinyddpm.bench import contest
from tinyddpm.bench.contest import OURS, Outcome, alternate, run_contest
from tinyddpm.bench.operations import Row
from tinyddpm.bench.ours import Profile
from tinyddpm.bench.process import BenchError, PeerError, Runner, _Server
from tinyddpm.bench.report import as_json, as_text
from tinyddpm.bench.task import Task, make_task
from tinyddpm.errors import ConfigError, RegistryError
from tinyddpm.model.config import preset

US, OTHER = f"{OURS} numpy", f"{OURS} torch"

SPEEDS = {
    US: (2.0, 1.0),
    OTHER: (6.0, 0.5),
    "fake slow": (8.0, 3.0),
    "fake fast": (3.0, 1.5),
    "fake compiled": (9.0, 9.0),
}
"""Seconds of a training and of a denoising step."""


class Fake:
    """Takes the time it says, and says when it is asked; what is in `fails` cannot start.

    A timed turn of a contestant in `turns` gives, or raises, what comes next there.
    """

    log: ClassVar[list[tuple[str, str]]] = []
    fails: ClassVar[tuple[str, ...]] = ()
    turns: ClassVar[dict[str, Iterator[float | BaseException]]] = {}

    def __init__(self, name: str, source: Path | None, variant: str, task: Task) -> None:
        self.name, self.description, self.ours = name, f"the {name}", source is None
        self.task = task
        self.log.append((name, "starts"))

    def ready(self) -> None:
        if self.name in self.fails:
            raise (BenchError if self.ours else PeerError)(f"{self.name}: it has no engine")

    def turn(self, kind: str, seconds: float) -> float:
        if seconds:
            self.log.append((self.name, kind))
        taken = next(self.turns[self.name]) if seconds and self.name in self.turns else None
        if isinstance(taken, BaseException):
            raise taken
        return SPEEDS[self.name][kind == "denoise_step"] if taken is None else taken

    def memory(self) -> int:
        return 2**20

    def ask(self, method: str) -> object:
        rows = [Row("conv2d_backward 3x3 1→8 at 8x8", 1, 0.5, 40), Row("conv2d 3x3 1→8 at 8x8", 1, 0.25, 20)]
        costs = {"3x3 1→8 at 8x8": {"one": 1.0, "other": 2.0}}
        return {"matrix_rate": 100.0, "profile": Profile(1.0, rows, 90.0, 10.0, costs)}[method]

    def close(self) -> None:
        self.log.append((self.name, "ends"))


class FakePeer:
    def variants(self, task: Task, compiled: bool) -> list[str]:
        return ["slow", "fast"] + ["compiled"] * compiled


@pytest.fixture
def task() -> Task:
    return make_task(preset("digits").config.updated({"network": {"channels": 8}}), "digits")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(contest, "REST", 0.0)
    monkeypatch.setattr(contest, "Runner", Fake)
    monkeypatch.setattr(contest, "load_peer", lambda path: FakePeer())
    monkeypatch.setattr(Fake, "log", [])
    monkeypatch.setattr(Fake, "turns", {})
    return Fake


def contest_of(
    task: Task, backends: Sequence[str] = ("numpy",), rounds: int = 2, chosen: Sequence[str] | None = None
) -> Outcome:
    return run_contest(task, backends, Path("fake_peer.py"), rounds, chosen)


def test_they_take_turns(fakes: type[Fake], task: Task) -> None:
    names = [US, "fake slow", "fake fast"]
    rounds: list[int] = []
    seconds = alternate([Fake(name, Path(), "", task) for name in names], "train_step", 3, rounds.append)
    assert [name for name, what in fakes.log if what == "train_step"] == 3 * names
    assert seconds == {US: [2.0] * 3, "fake slow": [8.0] * 3, "fake fast": [3.0] * 3}
    assert rounds == [1, 2, 3]


def test_we_meet_one_peer_after_the_other(fakes: type[Fake], task: Task) -> None:
    """A B C A B C in training, then in denoising, then the same with D: ours and one peer live at a time."""
    contest_of(task, backends=["numpy", "torch"])

    def meeting(name: str) -> list[tuple[str, str]]:
        turns = [[(US, kind), (OTHER, kind), (name, kind)] * 2 for kind in ("train_step", "denoise_step")]
        return [(name, "starts"), *turns[0], *turns[1], (name, "ends")]

    assert fakes.log == [
        (US, "starts"), (OTHER, "starts"), *meeting("fake slow"), *meeting("fake fast"), (OTHER, "ends"), (US, "ends"),
    ]  # fmt: skip


def test_each_backend_has_the_task(fakes: type[Fake], task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer's is that of the first."""
    started: list[tuple[str, str]] = []

    def ready(fake: Fake) -> None:
        started.append((fake.name, fake.task.config.backend))

    monkeypatch.setattr(Fake, "ready", ready)
    run_contest(task, ["numpy", "torch"], Path("fake_peer.py"), 1, ["slow"])
    assert started == [(US, "numpy"), (OTHER, "torch"), ("fake slow", "numpy")]


def test_each_backend_has_its_ratios(fakes: type[Fake], task: Task) -> None:
    """The other takes 6 and 0.5 seconds; a column for each in the tables of ratios, a line for each in those of times.

    Times are those of all meetings.
    """
    outcome = contest_of(task, backends=["numpy", "torch"])
    assert outcome.ratios["train"] == {
        US: {"fake slow": 4, "fake fast": 1.5},
        OTHER: {"fake slow": 8 / 6, "fake fast": 0.5},
    }
    assert outcome.fastest("train", OTHER) == (0.5, "fake fast")
    assert outcome.fastest("denoise", OTHER) == (3.0, "fake fast")
    assert outcome.standings[OTHER].train == [6.0] * 4
    found = as_json(task, outcome)
    assert found["train_ratio"] == {US: 1.5, OTHER: 0.5}
    assert list(found["contestants"]) == [US, OTHER, "fake slow", "fake fast"]
    lines = [line.split() for line in as_text(task, outcome, explain=False)]
    train, denoise = (i for i, line in enumerate(lines) if line[:1] == ["times"])
    assert lines[train : train + 4] == [
        ["times", "the", "images/s", "of", "numpy", "torch"],
        ["fake", "slow", "4.00", "1.33"],
        ["fake", "fast", "1.50", "0.50"],
        ["the", "fastest", "peer", "1.50", "0.50"],
    ]
    assert lines[denoise + 3] == ["the", "fastest", "peer", "1.50", "3.00"]


def test_a_backend_that_cannot_start_is_left_out(
    fakes: type[Fake], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "fails", (US,))
    outcome = contest_of(task, backends=["numpy", "torch"])
    assert outcome.left_out == {US: f"{US}: it has no engine"}
    assert list(outcome.ratios["train"]) == [OTHER]
    assert (US, "ends") in fakes.log
    monkeypatch.setattr(Fake, "fails", (US, OTHER))
    with pytest.raises(BenchError, match=f"^{US}: it has no engine; {OTHER}: it has no engine$"):
        contest_of(task, backends=["numpy", "torch"])


def test_variants_that_are_not_chosen_are_not_run(fakes: type[Fake], task: Task) -> None:
    """To name one that must be compiled is to ask for it; one that is not there is refused before anything starts."""
    assert list(contest_of(task, chosen=["fast"]).standings) == [US, "fake fast"]
    assert list(contest_of(task, chosen=["compiled", "fast"]).standings) == [US, "fake fast", "fake compiled"]
    fakes.log.clear()
    with pytest.raises(
        ConfigError, match=r"^unknown variant 'fats': did you mean 'fast'\? there are: fast, compiled, slow$"
    ):
        contest_of(task, chosen=["fats"])
    with pytest.raises(ConfigError, match="give --peer too"):
        run_contest(task, ["numpy"], None, 2, ["fast"])
    with pytest.raises(ConfigError, match="give --peer too, or leave --compile out"):
        run_contest(task, ["numpy"], None, 2, compiled=True)
    with pytest.raises(RegistryError, match=r"^unknown backend 'nunpy': did you mean 'numpy'\?"):
        contest_of(task, backends=["numpy", "nunpy"])
    assert fakes.log == []


def test_ratios_are_to_the_fastest_peer(fakes: type[Fake], task: Task) -> None:
    """Ours takes 2 and 1 seconds, the fastest peer 3 and 1.5: images a second are as 1 / 2 to 1 / 3."""
    done: list[tuple[str, int]] = []
    outcome = run_contest(task, ["numpy"], Path("fake_peer.py"), 2, watch=lambda *seen: done.append(seen))
    assert outcome.fastest("train", US) == (1.5, "fake fast")
    assert outcome.fastest("denoise", US) == (1.5, "fake fast")
    assert done == [(name, number) for name in ("fake slow", "fake fast") for number in (1, 2, 3, 4)]
    found = as_json(task, outcome)
    assert (found["train_ratio"], found["sample_ratio"]) == ({US: 1.5}, {US: 1.5})
    assert found["fastest_peer"] == {"train": {US: "fake fast"}, "denoise": {US: "fake fast"}}
    assert found["ratios"] == {
        "train": {US: {"fake slow": 4, "fake fast": 1.5}},
        "denoise": {US: {"fake slow": 3, "fake fast": 1.5}},
    }
    ours = found["contestants"][US]
    assert ours["train"]["images_per_second"] == 64 / 2.0
    assert found["flop"] == {"train": 60, "denoise": 20}
    assert ours["train"]["of_matmul"] == 60 / 2.0 / 100.0
    assert ours["denoise"]["of_matmul"] == 20 / 1.0 / 100.0
    text = "\n".join(as_text(task, outcome, explain=True))
    assert "one 1, other 2" in text
    assert "GFLOP count the direct algorithm for all contestants" in text


def test_medians_decide(fakes: type[Fake], task: Task) -> None:
    """One turn that something disturbed changes no ratio."""
    fakes.turns[US] = iter([1.0, 1.0, 50.0] * 4)
    fakes.turns["fake slow"] = iter([2.0, 2.0, 0.1] * 2)
    assert contest_of(task, rounds=3).fastest("train", US) == (2.0, "fake slow")


def test_ratios_are_of_the_turns_that_two_took_together(fakes: type[Fake], task: Task) -> None:
    """The machine is half as fast in the second meeting: our times are those of both, but no ratio feels it."""
    fakes.turns[US] = iter([2.0, 2.0, 1.0, 1.0, 4.0, 4.0, 2.0, 2.0])
    fakes.turns["fake fast"] = iter([6.0, 6.0, 3.0, 3.0])
    outcome = contest_of(task)
    assert outcome.ratios == {
        "train": {US: {"fake slow": 4.0, "fake fast": 1.5}},
        "denoise": {US: {"fake slow": 3.0, "fake fast": 1.5}},
    }
    assert outcome.standings[US].train == [2.0, 2.0, 4.0, 4.0]
    assert outcome.standings[US].denoise == [1.0, 1.0, 2.0, 2.0]


def test_alone_there_is_no_ratio(fakes: type[Fake], task: Task) -> None:
    outcome = run_contest(task, ["numpy"], None, 1)
    found = as_json(task, outcome)
    assert (found["train_ratio"], found["sample_ratio"]) == ({}, {})
    assert list(found["contestants"]) == [US]
    assert "times the" not in "\n".join(as_text(task, outcome, explain=False))


def test_a_peer_that_cannot_run_is_left_out(fakes: type[Fake], task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "fails", ("fake fast",))
    outcome = contest_of(task)
    assert list(outcome.standings) == [US, "fake slow"]
    assert outcome.left_out == {"fake fast": "fake fast: it has no engine"}
    assert "left out: fake fast: it has no engine" in as_text(task, outcome, explain=False)
    assert outcome.fastest("train", US) == (4.0, "fake slow")
    monkeypatch.setattr(Fake, "fails", ("fake fast", "fake slow"))
    with pytest.raises(BenchError, match="no variant of the peer can run: fake slow: it has no engine"):
        contest_of(task)
    monkeypatch.setattr(Fake, "fails", (US,))
    with pytest.raises(BenchError, match=f"^{US}: it has no engine$"):
        run_contest(task, ["numpy"], None, 1)


def test_a_peer_that_fails_late_is_left_out(fakes: type[Fake], task: Task) -> None:
    """With our turns beside it."""
    fakes.turns["fake slow"] = iter([8.0, PeerError("fake slow: on fire")])
    outcome = contest_of(task)
    assert list(outcome.standings) == [US, "fake fast"]
    assert outcome.left_out == {"fake slow": "fake slow: on fire"}
    assert outcome.standings[US].train == [2.0, 2.0]
    assert ("fake slow", "ends") in fakes.log


def test_we_are_not_left_out(fakes: type[Fake], task: Task) -> None:
    fakes.turns[US] = iter([2.0, BenchError("tinyddpm: on fire")])
    with pytest.raises(BenchError, match="tinyddpm: on fire"):
        contest_of(task)


def test_an_interrupt_leaves_what_was_measured(fakes: type[Fake], task: Task) -> None:
    """It ends the contest in the second meeting; in the first there is nothing to report."""
    fakes.turns["fake fast"] = iter([3.0, KeyboardInterrupt()])
    outcome = contest_of(task)
    assert list(outcome.standings) == [US, "fake slow"]
    assert outcome.fastest("train", US) == (4.0, "fake slow")
    assert outcome.standings[US].train == [2.0, 2.0]
    assert outcome.left_out == {"fake fast": "fake fast: the contest was stopped before its turns were over"}
    fakes.turns["fake slow"] = iter([8.0, KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        contest_of(task)


def test_an_answer_that_an_interrupt_cut_short_is_not_taken_for_the_next(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = tmp_path / "echo_peer.py"
    peer.write_text(
        "class Echo:\n"
        "    def __init__(self, task, variant):\n"
        "        self.parameters = task.parameters\n"
        "    def describe(self):\n"
        "        return 'here'\n"
        "    def echo(self, value):\n"
        "        return value\n"
        "def variants(task, compiled):\n"
        "    return ['']\n"
        "make = Echo\n"
    )

    def interrupted(runner: Runner) -> Any:
        raise KeyboardInterrupt

    runner = Runner("echo", peer, "", task)
    try:
        runner.ready()
        with monkeypatch.context() as patch:
            patch.setattr(Runner, "_answer", interrupted)
            with pytest.raises(KeyboardInterrupt):
                runner.ask("echo", "first")
        assert runner.ask("echo", "second") == "second"
        with pytest.raises(PeerError, match=r"^echo: AttributeError"):
            runner.ask("sing")
        with pytest.raises(PeerError, match=r"^echo died with exit code 1"):
            runner.ask("echo", "third")
    finally:
        runner.close()


@pytest.mark.parametrize(
    ("backend", "device", "gpu"),
    [
        ("numpy", None, None),
        ("torch", None, None),
        ("torch", "cpu", None),
        ("torch", "cuda", "cuda"),
        ("torch", "cuda:1", "cuda:1"),
        ("cupy", None, "cuda:0"),
        ("cupy", "cuda", "cuda:0"),
        ("cupy", "cuda:2", "cuda:2"),
        ("cupy", "3", "cuda:3"),
    ],
)
def test_the_gpu_is_named_for_all(task: Task, backend: str, device: str | None, gpu: str | None) -> None:
    assert replace(task, config=replace(task.config, backend=backend, device=device)).gpu == gpu


def test_memory_of_a_gpu_is_what_the_contestant_says(task: Task, tmp_path: Path) -> None:
    """And unknown where it says nothing; on a CPU it is not asked."""
    peer = tmp_path / "gpu_peer.py"
    peer.write_text(
        "class Says:\n"
        "    def __init__(self, task, variant):\n"
        "        self.parameters = task.parameters\n"
        "    def describe(self):\n"
        "        return ''\n"
        "class Counts(Says):\n"
        "    def gpu_memory(self):\n"
        "        return 2**62\n"
        "def variants(task, compiled):\n"
        "    return ['Says', 'Counts']\n"
        "def make(task, variant):\n"
        "    return globals()[variant](task, variant)\n"
    )
    on_gpu = replace(task, config=replace(task.config, backend="cupy"))
    for there, variant, known in ((on_gpu, "Counts", 2**62), (on_gpu, "Says", None)):
        assert _Server(peer, variant, there).memory() == known
    assert _Server(peer, "Counts", task).memory() != 2**62
