"""Which of cuDNN's plans is taken: the fastest of those that are right, timed once and remembered."""

from __future__ import annotations

import gc
import json
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401
import numpy as np
import pytest

from helpers import cupy_stand_in
from helpers.cuda_shim import COMPILER
from helpers.cudnn_bench import REFERENCE, SHAPES, Bench
from helpers.cudnn_stand_in import Frontend
from tinyddpm.backend.cupy_backend import CupyBackend
from tinyddpm.ops.cuda import cudnn
from tinyddpm.ops.cuda.choices import choices_file
from tinyddpm.ops.cuda.cudnn import (
    OWN,
    REPEATS,
    Choice,
    CudnnConvolutions,
    CupyCard,
)

pytestmark = pytest.mark.usefixtures("cache")


def choices(cache: Path) -> list[Any]:
    """Return what is in the file of choices, line by line."""
    return [json.loads(line) for line in cache.read_text().splitlines() if line]


def test_fastest_of_the_right_plans_is_taken_and_remembered(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """For y, dx and dw, among plans that miss one pixel, write nothing, break, or cannot be built."""
    plans = ("right 3", "skips", "writes nothing", "unbuildable", "breaks", "right 2", "right 4")
    first = Bench(monkeypatch, *plans)
    first.compare(*SHAPES[0])
    assert {"skips", "writes nothing", "breaks"} <= set(first.names())
    first.frontend.run.clear()
    first.compare(*SHAPES[0])
    assert first.names() == ["right 2"] * 3
    written = choices(cache)
    assert [name for _, name in written] == ["right 2"] * 3
    assert all(key.startswith("Some card, cuDNN 9.28.1, (") for key, _ in written)
    second = Bench(monkeypatch, *plans)
    second.compare(*SHAPES[0])
    assert second.names() == ["right 2"] * 3
    assert [path.name for path in cache.parent.iterdir()] == ["cudnn.jsonl"]


def test_what_became_of_the_plans_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each reason how many; to the next process only what was chosen."""
    monkeypatch.setattr(cudnn, "CANDIDATES", 6)
    plans = ("right 9", "skips", "writes nothing", "unbuildable", "breaks", *(f"right {k}" for k in range(2, 9)))
    first = Bench(monkeypatch, *plans)
    first.compare(*SHAPES[0])
    assert [problem.wanted for problem in first.planner.choices] == ["y", "dx", "dw"]
    for choice in first.planner.choices.values():
        refused = {"disagreed": 1, "gave infinity or NaN": 1, "could not be built": 1, "failed when run": 1}
        assert choice == Choice("right 2", refused | {"slower": 5}, 2, choice.furthest)
        assert choice.furthest > 1000  # a pixel is missing, where sums of at most 60 terms may be off by 1e-4
        assert str(choice) == (
            "right 2; cuDNN's others: 1 disagreed, 1 gave infinity or NaN, 1 could not be built, 1 failed when run, "
            f"5 slower, furthest off by {choice.furthest:.3g} times the tolerance, 2 not tried"
        )
    second = Bench(monkeypatch, *plans)
    second.compare(*SHAPES[0])
    assert {str(choice) for choice in second.planner.choices.values()} == {"right 2; chosen earlier"}


@pytest.mark.parametrize(
    ("plans", "line"),
    [
        ((), f"{OWN}; cuDNN's others: none"),
        (("right 1",), "right 1; cuDNN's others: none"),
        (("right 102", "right 101"), f"{OWN}; cuDNN's others: 2 slower"),
    ],
    ids=str,
)
def test_what_there_is_no_more_to_tell_of(monkeypatch: pytest.MonkeyPatch, plans: tuple[str, ...], line: str) -> None:
    bench = Bench(monkeypatch, *plans)
    bench.compare(*SHAPES[0])
    assert {str(choice) for choice in bench.planner.choices.values()} == {line}


def test_only_the_first_right_plans_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "CANDIDATES", 6)
    bench = Bench(monkeypatch, *(f"right {20 - i}" for i in range(10)))
    bench.compare(*SHAPES[0])
    assert set(bench.names()) == {f"right {20 - i}" for i in range(cudnn.CANDIDATES)}


def test_a_residual_is_a_problem_of_its_own(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    bench = Bench(monkeypatch, "right 1")
    bench.compare(*SHAPES[0])
    bench.residual = True
    bench.compare(*SHAPES[0])
    wanted = [key.partition("(")[2].partition(",")[0] for key, _ in choices(cache)]
    assert wanted == ["'y'", "'dx'", "'dw'", "'y + residual'"]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("plans", [(), ("skips", "breaks"), ("right 102", "right 101")], ids=str)
def test_own_kernels_where_no_plan_is_right_and_faster(
    monkeypatch: pytest.MonkeyPatch, cache: Path, plans: tuple[str, ...], residual: bool
) -> None:
    """In the next process too, which tries none again."""
    bench = Bench(monkeypatch, *plans)
    bench.residual = residual
    bench.compare(*SHAPES[0])
    bench.frontend.run.clear()
    bench.compare(*SHAPES[0])
    second = Bench(monkeypatch, *plans)
    second.residual = residual
    second.compare(*SHAPES[0])
    assert bench.frontend.run == second.frontend.run == []
    assert cache.exists() == bool(plans)


def test_nothing_is_tried_while_the_stream_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape first met then goes to the own kernels, and is planned when it is met again; a known one is recorded."""
    bench = Bench(monkeypatch, "right 1")
    bench.card.recording = True
    bench.compare(*SHAPES[0])
    assert bench.frontend.run == []
    bench.card.recording = False
    bench.compare(*SHAPES[0])
    bench.frontend.run.clear()
    bench.card.recording, bench.card.current = True, 5
    bench.compare(*SHAPES[0])
    assert bench.frontend.run == [("right 1", 5)] * 3


@pytest.mark.parametrize("damaged", [b"", b"[1]", b'["a", ', b"\xff\xfe", b'{"a": 1}', b'["a", 1]'], ids=str)
def test_damaged_choices_are_made_again(monkeypatch: pytest.MonkeyPatch, cache: Path, damaged: bytes) -> None:
    """And those beside them are kept."""
    cache.parent.mkdir(parents=True)
    cache.write_bytes(damaged)
    Bench(monkeypatch, "right 1").compare(*SHAPES[0])
    bench = Bench(monkeypatch, "right 2", "right 1")
    bench.compare(*SHAPES[0])
    assert bench.names() == ["right 1"] * 3
    assert cache.read_bytes().startswith(damaged)


@pytest.mark.parametrize("known", ["of another cuDNN", "unbuildable", 3, ["right 1"]], ids=str)
def test_remembered_plans_that_are_gone_are_replaced(
    monkeypatch: pytest.MonkeyPatch, cache: Path, known: object
) -> None:
    plans = ("unbuildable", "right 1", "right 2")
    Bench(monkeypatch, *plans).compare(*SHAPES[0])
    cache.write_text("".join(f"{json.dumps([key, known])}\n" for key, _ in choices(cache)))
    Bench(monkeypatch, *plans).compare(*SHAPES[0])
    assert [name for _, name in choices(cache)] == [known] * 3 + ["right 1"] * 3
    monkeypatch.setattr(cudnn, "add_choice", None)  # none is made again
    Bench(monkeypatch, *plans).compare(*SHAPES[0])


def test_processes_that_time_otherwise_take_what_the_first_of_them_chose(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Both began before either had chosen; a seed must give the same run in both."""
    bench, add_choice = Bench(monkeypatch, "right 1", "right 2"), cudnn.add_choice

    def too_late(key: str, name: str) -> None:
        add_choice(key, "right 2")
        add_choice(key, name)

    monkeypatch.setattr(cudnn, "add_choice", too_late)
    bench.compare(*SHAPES[0])
    assert {str(choice) for choice in bench.planner.choices.values()} == {"right 2; chosen earlier"}
    assert [name for _, name in choices(cache)] == ["right 2", "right 1"] * 3
    bench.frontend.run.clear()
    bench.compare(*SHAPES[0])
    assert bench.names() == ["right 2"] * 3


def test_choices_that_cannot_be_written_are_made_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    bench = Bench(monkeypatch, "right 1")
    bench.compare(*SHAPES[0])
    assert "right 1" in bench.names()


@pytest.mark.parametrize("value", [None, ""], ids=str)
def test_choices_are_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", value) if value is not None else monkeypatch.delenv("XDG_CACHE_HOME")
    assert choices_file() == tmp_path / ".cache" / "tinyddpm" / "cudnn.jsonl"


@pytest.mark.parametrize("plans", [(), ("right 1",)], ids=str)
def test_a_backend_is_let_go_of(monkeypatch: pytest.MonkeyPatch, plans: tuple[str, ...]) -> None:
    """With its streams and the memory of its graphs, by whoever plans for it too; while it is used, one plans for all.

    Without plans there is no cuDNN.
    """
    cupy_stand_in.install(monkeypatch, Frontend(*plans) if plans else None)
    backend = CupyBackend()
    first, second = (CudnnConvolutions(backend) for _ in range(2))
    assert first._planner is second._planner
    assert (first._planner is None) == (not plans)
    left = weakref.ref(backend)
    del backend, first, second
    gc.collect()
    assert left() is None


@pytest.mark.parametrize("scope", [True, False], ids=["our stream", "the default stream"])
def test_several_runs_are_timed_as_one_graph(monkeypatch: pytest.MonkeyPatch, scope: bool) -> None:
    """At its second replay, on a stream that can be recorded."""
    cupy_stand_in.install(monkeypatch)
    backend, runs = CupyBackend(), []
    with backend.scope() if scope else nullcontext():
        x = backend.asarray(np.ones(3))
        CupyCard(0).milliseconds(lambda: runs.append(x + 1))
    assert len(runs) == REPEATS
    replay = f"launch {REPEATS}"
    expected = [f"record {REPEATS} launches", replay, "record event", replay, "record event", "wait for event"]
    assert cupy_stand_in.ASKED[:] == expected


@pytest.mark.slow
def test_plans_that_take_less_than_a_launch_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python each launch takes 50 µs. What cannot be recorded is refused.

    Kernels of ours take as long as each other here, so that dw, which a plan leaves one to turn, stays ours.
    """
    if COMPILER is None:
        pytest.skip("there is no C++ compiler (g++ or clang++) to run the kernels with")
    cupy_stand_in.install(monkeypatch, Frontend("right 0.04", "waits", "right 0.01", "right 0.02"))
    backend = CupyBackend()
    ops = CudnnConvolutions(backend, training=True)
    rng = np.random.default_rng(4)
    with backend.scope():
        x, w, b = (backend.asarray(rng.normal(size=s).astype(np.float32)) for s in ((2, 6, 5, 3), (3, 3, 3, 4), (4,)))
        y, saved = ops.conv2d(x, w, b)
        found = backend.to_numpy(y)
        ops.conv2d_backward(saved, y)
    expected, _ = REFERENCE.conv2d(*(np.asarray(a, np.float64) for a in (x, w, b)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    chosen = cudnn.planner(backend).choices.values()
    assert [choice.name for choice in chosen] == ["right 0.01", "right 0.01", OWN]
    assert [choice.refused for choice in chosen] == [{"failed when run": 1, "slower": k} for k in (2, 2, 3)]
    assert cupy_stand_in.Stream.current[1:] == []
