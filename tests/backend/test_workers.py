"""Workers: parts that cover the batch, results in order, and the BLAS held to one thread meanwhile."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from tinyddpm.backend.workers import Workers, parts, spread


@given(n=st.integers(1, 1000), count=st.integers(1, 64))
def test_parts_cover_the_samples_in_order(n: int, count: int) -> None:
    """Over batch sizes and counts: every sample once, none empty, sizes within one of each other."""
    cut = parts(n, count)
    assert [i for part in cut for i in range(n)[part]] == list(range(n))
    sizes = [part.stop - part.start for part in cut]
    assert len(cut) == min(n, count)
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_results_come_in_order_from_several_threads() -> None:
    seen = set()

    def slow_first(i: int) -> int:
        time.sleep(0.05 * (3 - i))
        seen.add(threading.get_ident())
        return i * i

    assert Workers(3).map(slow_first, range(3)) == [0, 1, 4]
    assert len(seen) == 3
    assert threading.get_ident() not in seen


def test_blas_is_held_to_one_thread_and_let_go() -> None:
    def blas() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    with threadpool_limits(2, "blas"):
        before = blas()
        assert set(before) == {2}
        assert Workers(2).map(lambda _: blas(), range(2)) == [[1] * len(before)] * 2
        assert blas() == before


def test_one_thread_is_the_callers_own() -> None:
    assert Workers(1).map(lambda _: threading.get_ident(), range(2)) == [threading.get_ident()] * 2


def test_errors_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        Workers(2).map(lambda i: 1 // i, range(3))
    assert Workers(2).map(np.sqrt, [4.0]) == [2.0]


def test_a_lone_part_is_spread_over_idle_threads() -> None:
    """In its own thread and the pool's, each slice once; in a batch of several parts nothing is spread further."""

    def ran(part: int) -> list[tuple[slice, int]]:
        found: list[tuple[slice, int]] = []
        spread(lambda cut: found.append((cut, threading.get_ident())), 10)
        return sorted(found, key=lambda item: item[0].start)

    ((first, pools), (second, own)) = Workers(2).map(ran, [0])[0]
    assert (first, second) == (slice(0, 5), slice(5, 10))
    assert own == threading.get_ident() != pools
    assert [[cut for cut, _ in found] for found in Workers(2).map(ran, [0, 1])] == [[slice(0, 10)]] * 2
    assert [cut for cut, _ in ran(0)] == [slice(0, 10)]


def test_errors_of_a_spread_part_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        Workers(2).map(lambda _: spread(lambda part: 1 // part.start, 4), [0])


@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("spreads", [False, True])
def test_nothing_is_written_once_a_part_has_failed(failing: int, spreads: bool) -> None:
    """One part fails at once, in the caller's thread or in the pool's; the others are at work and are waited for."""
    written: list[int] = []

    def work(number: int) -> None:
        if number == failing:
            raise ZeroDivisionError
        time.sleep(0.1 * (3 - number))
        written.append(number)

    workers = Workers(3)
    with pytest.raises(ZeroDivisionError):
        workers.map(lambda _: spread(lambda part: work(part.start), 3), [0]) if spreads else workers.map(work, range(3))
    assert sorted(written) == [number for number in range(3) if number != failing]
