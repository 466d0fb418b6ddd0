"""Who takes turns when, and what comes of the times; on contestants of known speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from tinyddpm.bench import contest
from tinyddpm.bench.contest import OURS, Outcome, Standing, alternate, run_contest
from tinyddpm.bench.operations import Row
from tinyddpm.bench.ours import Profile
from tinyddpm.bench.process import BenchError, _Server
from tinyddpm.bench.report import as_json, as_text
from tinyddpm.bench.task import Task, make_task
from tinyddpm.training.config import preset

SPEEDS = {OURS: (2.0, 1.0), "fake slow": (8.0, 3.0), "fake fast": (3.0, 1.5)}
"""Seconds of a training and of a denoising step."""


class Fake:
    """Takes the time it says, and says when it is asked; what is in `fails` goes wrong."""

    log: ClassVar[list[tuple[str, str]]] = []
    fails: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, source: Path | None, variant: str, task: Task) -> None:
        self.name, self.description = name, f"the {name}"

    def ready(self) -> None:
        if self.name in self.fails:
            raise BenchError(f"{self.name}: it has no engine")

    def turn(self, kind: str, seconds: float) -> float:
        self.log.append((self.name, kind))
        return SPEEDS[self.name][kind == "denoise_step"]

    def memory(self) -> int:
        return 2**20

    def ask(self, method: str) -> object:
        rows = [Row("conv2d_backward 3x3 1→8 at 8x8", 1, 0.5, 40), Row("conv2d 3x3 1→8 at 8x8", 1, 0.25, 20)]
        costs = {"3x3 1→8 at 8x8": {"one": 1.0, "other": 2.0}}
        return {"matrix_rate": 100.0, "profile": Profile(1.0, rows, 90.0, 10.0, costs)}[method]

    def close(self) -> None:
        self.log.append((self.name, "closed"))


class FakePeer:
    def variants(self, task: Task, compiled: bool) -> list[str]:
        return ["slow", "fast"]


@pytest.fixture
def task() -> Task:
    return make_task(preset("digits").config.updated({"network": {"channels": 8}}), "digits")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(contest, "REST", 0.0)
    monkeypatch.setattr(contest, "Runner", Fake)
    monkeypatch.setattr(contest, "load_peer", lambda path: FakePeer())
    monkeypatch.setattr(Fake, "log", [])
    return Fake


def test_they_take_turns(fakes: type[Fake], task: Task) -> None:
    names = [OURS, "fake slow", "fake fast"]
    rounds: list[int] = []
    seconds = alternate([Fake(name, None, "", task) for name in names], "train_step", 3, rounds.append)
    assert [name for name, _ in fakes.log] == 3 * names
    assert seconds == {OURS: [2.0] * 3, "fake slow": [8.0] * 3, "fake fast": [3.0] * 3}
    assert rounds == [1, 2, 3]


def test_ratios_are_to_the_fastest_peer(fakes: type[Fake], task: Task) -> None:
    """Ours takes 2 and 1 seconds, the fastest peer 3 and 1.5: images a second are as 1 / 2 to 1 / 3."""
    done: list[int] = []
    outcome = run_contest(task, Path("fake_peer.py"), 2, False, done.append)
    assert outcome.ratio("train") == (1.5, "fake fast")
    assert outcome.ratio("denoise") == (1.5, "fake fast")
    assert done == [1, 2, 3, 4]
    found = as_json(task, outcome)
    assert (found["train_ratio"], found["sample_ratio"]) == (1.5, 1.5)
    ours = found["contestants"][OURS]
    assert ours["train"]["images_per_second"] == 64 / 2.0
    assert found["flop"] == {"train": 60, "denoise": 20}
    assert ours["train"]["of_matmul"] == 60 / 2.0 / 100.0
    assert ours["denoise"]["of_matmul"] == 20 / 1.0 / 100.0
    text = "\n".join(as_text(task, outcome, explain=True))
    assert "1.50 times the images/s of fake fast" in text
    assert "one 1, other 2" in text
    assert fakes.log[-3:] == [(name, "closed") for name in reversed([OURS, "fake slow", "fake fast"])]


def test_medians_decide() -> None:
    """One turn that something disturbed changes no ratio."""
    ours = Standing("", [1.0, 1.0, 50.0], [1.0], None)
    peer = Standing("", [2.0, 2.0, 0.1], [1.0], None)
    assert Outcome({OURS: ours, "p": peer}, {}, 1.0, Profile(1.0, [], 1.0, 1.0, {})).ratio("train") == (2.0, "p")


def test_alone_there_is_no_ratio(fakes: type[Fake], task: Task) -> None:
    outcome = run_contest(task, None, 1, False)
    found = as_json(task, outcome)
    assert (found["train_ratio"], found["sample_ratio"]) == (None, None)
    assert list(found["contestants"]) == [OURS]
    assert "times the" not in "\n".join(as_text(task, outcome, explain=False))


def test_a_peer_that_cannot_run_is_left_out(fakes: type[Fake], task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "fails", ("fake fast",))
    outcome = run_contest(task, Path("fake_peer.py"), 1, False)
    assert list(outcome.standings) == [OURS, "fake slow"]
    assert outcome.left_out == {"fake fast": "fake fast: it has no engine"}
    assert "left out: fake fast: it has no engine" in as_text(task, outcome, explain=False)
    assert outcome.ratio("train") == (4.0, "fake slow")
    monkeypatch.setattr(Fake, "fails", ("fake fast", "fake slow"))
    with pytest.raises(BenchError, match="no variant of the peer can run: fake slow: it has no engine"):
        run_contest(task, Path("fake_peer.py"), 1, False)
    monkeypatch.setattr(Fake, "fails", (OURS,))
    with pytest.raises(BenchError, match="tinyddpm: it has no engine"):
        run_contest(task, None, 1, False)


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
