"""What a step takes on ranks: the model's closed forms, what the command reads and says of it, and a sum measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from math import ceil, isclose, log2
from typing import Any

import pytest

from helpers import command_line
from tinyddpm.bench import contest
from tinyddpm.bench.scaling import (
    BACKWARD,
    Job,
    Link,
    exchange,
    fitted_link,
    foretell,
    parse_link,
    parse_parameters,
    parse_ranks,
    ring_seconds,
    sum_seconds,
    tree_seconds,
)
from tinyddpm.errors import ConfigError
from tinyddpm.training.pieces import LEAST

LINK = Link(50e9, 3e-6)
JOB = Job(parameters=35_746_307, batch=128, compute=16.3e-3)
SMALL = ["--set", "network.channels=8", "--batch-size", "4", "--threads", "1", "--rounds", "2"]
GIVEN = ["--ranks", "1,8,64,1024", "--link", "50GB/s,3us", "--compute-ms", "16.3"]


run = partial(command_line.run, "bench")


def fails(*arguments: str) -> str:
    """The line of an error, alone on standard error."""
    line = command_line.fails("bench", *arguments)
    assert run(*arguments).stderr.splitlines() == [line]
    return line


def test_one_rank_waits_for_nobody() -> None:
    for job in (JOB, replace(JOB, shard=True, sums="bf16")):
        found = foretell(job, 1, LINK)
        assert found.sent == 0.0
        for timing in (found.after, found.within):
            assert (timing.seconds, timing.efficiency, timing.least_batch) == (JOB.compute, 1.0, 1)


def test_the_ring_reaches_twice_the_bytes_and_the_tree_is_there_first() -> None:
    """Of no latency, a ring takes less than 2 n/B on any number of ranks, and that at last."""
    n, free = 1e8, Link(1e9, 0.0)
    times = [ring_seconds(n, p, free) for p in (2, 4, 1024, 10**8)]
    assert times[0] == n / free.bandwidth
    assert times == sorted(times)
    assert times[-1] == pytest.approx(2 * n / free.bandwidth)
    assert times[-1] < tree_seconds(n, 2, free) == 2 * n / free.bandwidth


def test_a_tree_is_quicker_for_little_on_many_and_a_ring_for_much_on_few() -> None:
    """They are level where the tree's 2/p n/B more cost what its fewer latencies save."""
    assert sum_seconds(JOB, 4e3, 1024, LINK) == (pytest.approx(2 * 10 * 3e-6 + 2 * 4e3 / 50e9), "tree")
    assert sum_seconds(JOB, 4e9, 8, LINK) == (pytest.approx(2 * 7 * 3e-6 + 2 * 7 / 8 * 4e9 / 50e9), "ring")
    for p in (4, 8, 64, 1000):
        level = p * (p - 1 - ceil(log2(p))) * LINK.latency * LINK.bandwidth
        assert sum_seconds(JOB, 0.99 * level, p, LINK)[1] == "tree"
        assert sum_seconds(JOB, 1.01 * level, p, LINK)[1] == "ring"


def test_bfloat16_halves_what_is_summed_and_not_what_is_gathered() -> None:
    """Shards send what a ring does: half of it are gradients, the other half weights."""
    free = Link(1e9, 0.0)
    whole, half = (foretell(replace(JOB, sums=sums), 8, free).sent for sums in ("fp32", "bf16"))
    assert whole == pytest.approx(2 * half)
    assert foretell(replace(JOB, shard=True), 8, free).sent == pytest.approx(whole)
    assert foretell(replace(JOB, shard=True, sums="bf16"), 8, free).sent == pytest.approx(0.75 * whole)
    ring = replace(JOB, shard=True)
    assert foretell(ring, 8, LINK).sent == pytest.approx(ring_seconds(ring.sent, 8, LINK))


def test_pieces_follow_each_other_as_if_played_through() -> None:
    """Piece i of k is ready at i/k of the backward, and waits for those before."""
    for compute in (1e-3, 7e-3, 16.3e-3, 1.0):
        for job in (replace(JOB, compute=compute), replace(JOB, compute=compute, shard=True)):
            for count in (1, 2, 5, 30):
                found = exchange(job, 64, LINK, count)
                backward, end = BACKWARD * compute, 0.0
                for number in range(1, found.count + 1):
                    end = max(end, backward * number / found.count) + found.piece
                assert found.wait(compute) == pytest.approx(end - backward + found.gather)


def test_sums_within_the_backward_hide_all_but_the_last_piece_in_it() -> None:
    """Where the compute is long; where it is short, pieces have more latencies than the whole."""
    count = JOB.parameters // LEAST
    assert count == 5
    for p in (2, 8, 64, 1024):
        found = foretell(replace(JOB, compute=1.0), p, LINK)
        assert found.within.seconds == pytest.approx(1.0 + sum_seconds(JOB, JOB.sent / count, p, LINK)[0])
        assert found.after.seconds == pytest.approx(1.0 + sum_seconds(JOB, JOB.sent, p, LINK)[0])
    short = foretell(replace(JOB, compute=1e-6), 1024, LINK)
    assert short.within.seconds - short.after.seconds == pytest.approx((count - 1) * 20 * LINK.latency, rel=0.01)
    tiny = replace(JOB, parameters=10_000)  # of a single piece: nothing is hidden
    assert foretell(tiny, 8, LINK).within == foretell(tiny, 8, LINK).after


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("p", [2, 8, 1024])
def test_the_least_batch_is_the_first_that_is_efficient(p: int, shard: bool) -> None:
    """Tried one less and one more, the compute in proportion."""
    job = replace(JOB, shard=shard)
    found = foretell(job, p, LINK)
    for which, least in (("after", found.after.least_batch), ("within", found.within.least_batch)):
        part = []
        for batch in (least - 1, least):
            other = replace(job, batch=batch, compute=job.compute * batch / job.batch)
            part.append(getattr(foretell(other, p, LINK), which).efficiency)
        assert part[0] < 0.9 <= part[1] + 1e-12


def test_memory_of_shards() -> None:
    """Twenty bytes a parameter, of which twelve are divided."""
    job = replace(JOB, parameters=10**9)
    assert [job.memory(p, False) for p in (1, 64)] == [20e9, 20e9]
    assert [job.memory(p, True) for p in (1, 4, 12)] == [20e9, 11e9, 9e9]


@pytest.mark.parametrize("p", [2, 4, 9])
def test_a_link_is_found_again(p: int) -> None:
    """Of times that a ring takes; of such as would need a latency below none, without one."""
    sizes = [4e5, 4e6, 4e7, 1.6e8]
    link = Link(3e9, 40e-6)
    found = fitted_link(sizes, [ring_seconds(n, p, link) for n in sizes], p)
    assert found.bandwidth == pytest.approx(link.bandwidth)
    assert found.latency == pytest.approx(link.latency)
    times = [ring_seconds(n, p, Link(3e9, 0.0)) * (1 + n / 1e8) for n in sizes]
    speeds = [n / t for n, t in zip(sizes, times, strict=True)]
    per_byte = sum(speeds) / sum(speed**2 for speed in speeds)  # the least of (1 - per_byte n / t)^2
    convex = fitted_link(sizes, times, p)
    assert convex.latency == 0.0
    assert convex.bandwidth == pytest.approx(2 * (p - 1) / p / per_byte)
    with pytest.raises(ConfigError, match="when the machine is quiet"):
        fitted_link(sizes, [4.0, 3.0, 2.0, 1.0], p)


@pytest.mark.parametrize(
    ("text", "bandwidth", "latency"),
    [
        ("50GB/s,3us", 50e9, 3e-6),
        ("100Gb/s,1.5us", 12.5e9, 1.5e-6),
        ("10 Gbit/s, 20 µs", 1.25e9, 20e-6),
        ("12.5MB/s,1.5ms", 12.5e6, 1.5e-3),
        ("1.5e2GB/s,0us", 150e9, 0.0),
    ],
)
def test_links_are_read(text: str, bandwidth: float, latency: float) -> None:
    """What is said of them can be read again."""
    for found in (parse_link(text), parse_link(str(parse_link(text)))):
        assert isclose(found.bandwidth, bandwidth)
        assert isclose(found.latency, latency, abs_tol=1e-20)


@pytest.mark.parametrize(
    "text",
    ["", "50GB/s", "50GB/s,", "50,3", "3us,50GB/s", "50GB,3us", "0GB/s,3us", "-1GB/s,3us", "nanGB/s,3us",
     "1e999GB/s,1us", "50GB/s,-3us", "50GB/s,3us,1", "50gb/s,3us"],
)  # fmt: skip
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--link .*: write BANDWIDTH,LATENCY"):
        parse_link(text)


def test_numbers_are_read() -> None:
    assert parse_ranks("1, 8,64,1024") == [1, 8, 64, 1024]
    assert [parse_parameters(text) for text in ("35746307", "35.7M", "1B", "108 M", "2k")] == [
        35_746_307, 35_700_000, 10**9, 108_000_000, 2000,
    ]  # fmt: skip
    for text in ("", "0", "1,,2", "-1", "two", "1.5", "1;2", "²", "9" * 40):
        with pytest.raises(ConfigError, match=r"--ranks .*: write numbers"):
            parse_ranks(text)
    for text in ("", "0", "-5M", "1G", "M", "0.1", "nan"):
        with pytest.raises(ConfigError, match=r"--parameters .*: write a number"):
            parse_parameters(text)


def test_a_given_step_is_foretold_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are the model's, in the table as in JSON."""
    monkeypatch.setattr(contest, "Runner", None)
    result = run(*GIVEN, "--parameters", "35746307", "--batch-size", "128", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["measured_seconds"] == []
    assert found["link"] == {"bytes_per_second": 50e9, "latency_seconds": pytest.approx(3e-6)}
    for p, row in zip((1, 8, 64, 1024), found["ranks"], strict=True):
        expected = foretell(JOB, p, LINK)
        assert row["ranks"] == p
        assert row["by"] == (None if p == 1 else expected.by)
        assert row["after_backward"]["step_seconds"] == pytest.approx(expected.after.seconds)
        assert row["after_backward"]["samples_per_second"] == pytest.approx(128 * p / expected.after.seconds)
        assert row["within_backward"]["least_batch"] == expected.within.least_batch
        assert row["sharded_memory_bytes"] == JOB.memory(p, True)
    lines = run(*GIVEN, "--parameters", "35746307", "--batch-size", "128").stdout.splitlines()
    assert lines[0] == "35,746,307 parameters, batch 128 a rank, 16.30 ms on one alone (given)"
    row = next(line.split() for line in lines if line.split()[:1] == ["1,024"])
    assert row[1] == "tree"
    assert float(row[3]) == pytest.approx(1e3 * foretell(JOB, 1024, LINK).after.seconds, abs=0.005)
    assert max(map(len, lines[:-1])) <= 120


def test_the_preset_says_how_many_parameters_there_are_and_what_is_sharded() -> None:
    text = run(*GIVEN, "--preset", "cifar10", "--shard", "--sums", "bf16").stdout
    assert text.startswith("35,746,307 parameters, batch 128 a rank")
    assert "71.5 MB of gradient summed in bf16, and 143.0 MB of weights gathered" in text
    assert "tree" not in text


@pytest.mark.slow
def test_a_step_is_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "TURN", 0.01)
    monkeypatch.setattr(contest, "REST", 0.0)
    result = run(*GIVEN[:4], *SMALL, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert len(found["measured_seconds"]) == 2
    assert found["compute_seconds"] == pytest.approx(sum(found["measured_seconds"]) / 2)
    assert re.search(r"\(measured on .*, 1 thread\)", run(*GIVEN[:4], *SMALL).stdout)


def test_what_does_not_go_together_is_one_line() -> None:
    assert "give both" in fails("--ranks", "1,8")
    assert "give both" in fails("--link", "1GB/s,1us")
    assert "give both" in fails("--compute-ms", "3")
    assert "give --compute-ms too" in fails(*GIVEN[:4], "--parameters", "1B")
    assert "leave out --peer, --explain" in fails(*GIVEN, "--peer", "torch", "--explain")
    assert "training.sums is 'fp8': choose from fp32, bf16" in fails(*GIVEN, "--sums", "fp8")
    for milliseconds in ("0", "nan", "inf", "1e-320"):
        assert "give milliseconds, from 1e-6" in fails(*GIVEN[:4], "--compute-ms", milliseconds)
