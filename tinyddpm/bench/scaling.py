"""The time of a training step on p ranks, predicted by the latency-bandwidth model.

A message of m bytes takes a + m/B over a link of latency a and bandwidth B. The model has one such link between any two
ranks; if links differ, the slowest counts. An all-reduce, the sum of n bytes over p ranks, left on each of them, takes

    ring: 2 (p - 1) a + 2 (p - 1)/p n/B    each rank sums a part of n/p bytes, then gathers those of the others
    tree: 2 ceil(log2 p) a + 2 n/B         up a tree and down again, in pieces that follow each other

and the faster of the two is used. The ring is that of Thakur, Rabenseifner and Gropp, "Optimization of Collective
Communication Operations in MPICH" (2005), whose halving and doubling has the tree's latency too; the tree is NCCL's two
binary trees, by Sanders, Speck and Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan"
(2009). With shards, one half of the ring sums the gradient and the other half gathers the weights, in float32 whatever
the precision of the sums.

The time of a step is its compute C on one rank, plus the time that it waits for sums:

    after the backward:   S + G
    within the backward:  max(S_k, k S_k - 2/3 C (k - 1)/k) + G

S is the time to sum the whole gradient, S_k that of one of k equal pieces, G that of gathering the weights with shards.
Pieces become ready one after the other during the backward, which is two thirds of the compute, because it has two
products for each of the forward. The sum of a piece waits for that of the one before, and nothing hides the last one
(Li et al., "PyTorch Distributed", 2020). With NCCL, this library sums within the backward, unless ranks keep shards;
with MPI, after it.

The model leaves out the additions of a sum, the agreement of ranks on loss and stop at each step (a few times
ceil(log2 p) a), the wait for the slowest rank, and the reading of data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any

from tinyddpm.errors import ConfigError
from tinyddpm.training.pieces import LEAST

BACKWARD = 2 / 3
"""Share of the backward in a step's compute."""

EFFICIENT = 0.9
"""Share of compute in a step for which the table gives the smallest batch."""

NUMBER_BYTES = {"fp32": 4, "bf16": 2}
"""Bytes of a number that is sent, by the precision of sums."""

BANDWIDTHS = {
    f"{prefix}{unit}": size * scale
    for prefix, scale in (("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))
    for unit, size in (("B/s", 1.0), ("b/s", 1 / 8), ("bit/s", 1 / 8))
}
LATENCIES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
COUNTS = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9}

QUANTITY = re.compile(r"(\d+\.?\d*(?:e[+-]?\d+)?) ?([A-Za-zµ/]*)")


@dataclass(frozen=True)
class Link:
    """The network between two ranks: its bandwidth in bytes per second, and its latency in seconds."""

    bandwidth: float
    latency: float

    def __str__(self) -> str:
        bandwidth, latency = self.bandwidth, self.latency
        speed = f"{bandwidth / 1e9:.4g} GB/s" if bandwidth >= 1e8 else f"{bandwidth / 1e6:.4g} MB/s"
        return f"{speed}, {f'{1e3 * latency:.3g} ms' if latency >= 1e-3 else f'{1e6 * latency:.3g} µs'}"


def parse_link(text: str) -> Link:
    """Return the link of a text such as "50GB/s,3us"; b are bits, B bytes.

    Raises:
        ConfigError: the text is not of this form.
    """
    first, comma, second = text.partition(",")
    bandwidth, latency = _quantity(first, BANDWIDTHS), _quantity(second, LATENCIES)
    if not comma or not bandwidth or latency is None:
        raise ConfigError(f"--link {text!r}: write BANDWIDTH,LATENCY in GB/s, Gb/s or MB/s, and us or ms: 50GB/s,3us")
    return Link(bandwidth, latency)


def parse_ranks(text: str) -> list[int]:
    """Return the numbers of ranks in a text such as "1,8,64,1024".

    Raises:
        ConfigError: one of them is not a whole number from 1 on.
    """
    found = [name.strip() for name in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", name) and int(name) for name in found):
        raise ConfigError(f"--ranks {text!r}: write numbers of ranks from 1 on, with commas between: 1,8,64,1024")
    return [int(name) for name in found]


def parse_parameters(text: str) -> int:
    """Return the number of parameters of a text such as "35746307", "35.7M" or "1B".

    Raises:
        ConfigError: the text is not of this form.
    """
    found = _quantity(text, COUNTS)
    if not found or round(found) < 1:
        raise ConfigError(f"--parameters {text!r}: write a number, such as 35746307, 35.7M or 1B")
    return round(found)


def ring_seconds(n: float, p: int, link: Link) -> float:
    """Return the seconds to sum n bytes over a ring of p ranks."""
    return 2 * half_ring_seconds(n, p, link)


def half_ring_seconds(n: float, p: int, link: Link) -> float:
    """Return the seconds in which each of p ranks sums its part of n bytes (or gathers the parts of the others)."""
    return (p - 1) * link.latency + (p - 1) / p * n / link.bandwidth


def tree_seconds(n: float, p: int, link: Link) -> float:
    """Return the seconds to sum n bytes over a tree of p ranks; 0 for one rank."""
    return 2 * (p - 1).bit_length() * link.latency + 2 * n / link.bandwidth if p > 1 else 0.0


def fitted_link(sizes: Sequence[float], seconds: Sequence[float], p: int) -> Link:
    """Return the link that explains measured ring sums over p ranks, by least squares of the relative errors.

    Args:
        sizes: bytes of each sum, at least two different ones.
        seconds: time of each sum, positive.
        p: number of ranks, at least two.

    Raises:
        ConfigError: sums of more bytes did not take longer.
    """
    # t = A + D n, with A = 2 (p - 1) a and D = 2 (p - 1)/(p B); each line is divided by its t.
    ones, scaled = [1 / t for t in seconds], [n / t for n, t in zip(sizes, seconds, strict=True)]
    uu, uv, vv = _dot(ones, ones), _dot(ones, scaled), _dot(scaled, scaled)
    u, v = sum(ones), sum(scaled)
    determinant = uu * vv - uv * uv
    start, slope = (u * vv - v * uv) / determinant, (v * uu - u * uv) / determinant
    if start < 0:
        start, slope = 0.0, v / vv
    elif slope <= 0:
        raise ConfigError("sums of more numbers took no longer: measure again when the machine is quiet")
    return Link(2 * (p - 1) / (p * slope), start / (2 * (p - 1)))


@dataclass(frozen=True)
class Job:
    """A training step that several ranks do together.

    Attributes:
        parameters: number of parameters of the network.
        batch: number of samples of each rank.
        compute: seconds of such a step on one rank alone.
        sums: precision in which gradients are sent, "fp32" or "bf16".
        shard: whether each rank keeps and updates only a part of Adam's state and of the average.
    """

    parameters: int
    batch: int
    compute: float
    sums: str = "fp32"
    shard: bool = False

    @property
    def sent(self) -> int:
        """Bytes of the gradient in the precision of sums."""
        return self.parameters * NUMBER_BYTES[self.sums]

    def memory(self, p: int, shard: bool) -> float:
        """Return the memory of one of p ranks in bytes, without activations.

        A parameter takes 20 bytes: 4 for the weight, 4 for its gradient, and 12 for the average and Adam's two moments,
        which shards divide by p.
        """
        return self.parameters * (8 + 12 / (p if shard else 1))


@dataclass(frozen=True)
class Exchange:
    """The communication of ranks in a step.

    Attributes:
        count: number of pieces that the gradient is cut into.
        piece: seconds to sum one piece.
        gather: seconds to gather the weights.
    """

    count: int
    piece: float
    gather: float

    def wait(self, compute: float) -> float:
        """Return the seconds that a step with these seconds of compute waits for communication."""
        hidden = BACKWARD * compute * (self.count - 1) / self.count
        return max(self.piece, self.count * self.piece - hidden) + self.gather

    def least_compute(self, efficiency: float) -> float:
        """Return the least seconds of compute that make up this share of a step, which is above 0 and below 1."""
        share = (1 - efficiency) / efficiency  # wait <= share * compute
        hidden = BACKWARD * (self.count - 1) / self.count
        return max((self.piece + self.gather) / share, (self.count * self.piece + self.gather) / (share + hidden))


def exchange(job: Job, p: int, link: Link, count: int) -> Exchange:
    """Return the communication of p ranks in a step of the job, whose gradient is cut into `count` pieces."""
    gather = half_ring_seconds(4 * job.parameters, p, link) if job.shard else 0.0
    return Exchange(count, sum_seconds(job, job.sent / count, p, link)[0], gather)


def sum_seconds(job: Job, n: float, p: int, link: Link) -> tuple[float, str]:
    """Return the seconds to sum n bytes of the job's gradient over p ranks, and the algorithm, "ring" or "tree"."""
    if job.shard:
        return half_ring_seconds(n, p, link), "ring"
    return min((ring_seconds(n, p, link), "ring"), (tree_seconds(n, p, link), "tree"))


@dataclass(frozen=True)
class Timing:
    """The predicted time of a step.

    Attributes:
        seconds: duration of the step.
        efficiency: share of compute in it.
        least_batch: smallest batch per rank with an efficiency of `EFFICIENT`, if compute is proportional to the batch.
    """

    seconds: float
    efficiency: float
    least_batch: int


@dataclass(frozen=True)
class Foretold:
    """The prediction for a step on p ranks.

    Attributes:
        ranks: p.
        by: algorithm of the sum, "ring" or "tree".
        sent: seconds of communication, including the gathering of weights.
        after: the step if sums follow the backward.
        within: the step if sums begin within the backward, in pieces as large as the library's.
    """

    ranks: int
    by: str
    sent: float
    after: Timing
    within: Timing


def foretell(job: Job, p: int, link: Link) -> Foretold:
    """Return the prediction for a step of the job on p ranks."""
    whole, cut = (exchange(job, p, link, count) for count in (1, max(1, job.parameters // LEAST)))
    _, by = sum_seconds(job, job.sent, p, link)
    return Foretold(p, by, whole.wait(job.compute), _timing(job, whole), _timing(job, cut))


def _timing(job: Job, found: Exchange) -> Timing:
    seconds = job.compute + found.wait(job.compute)
    least = found.least_compute(EFFICIENT)
    return Timing(seconds, job.compute / seconds, max(1, ceil(job.batch * least / job.compute)))


def as_json(job: Job, link: Link, ranks: Sequence[int], measured: Sequence[float]) -> dict[str, Any]:
    """Return the predictions, for `json.dumps`. Times are in seconds, rates per second, sizes in bytes.

    Args:
        job: the step.
        link: the network between ranks.
        ranks: numbers of ranks.
        measured: seconds of a step on one rank in each turn; empty if the compute was given.
    """
    return {
        "parameters": job.parameters,
        "batch_size": job.batch,
        "compute_seconds": job.compute,
        "measured_seconds": list(measured),
        "link": {"bytes_per_second": link.bandwidth, "latency_seconds": link.latency},
        "sums": job.sums,
        "shard": job.shard,
        "ranks": [_entry(job, foretell(job, p, link)) for p in ranks],
    }


def as_text(job: Job, link: Link, ranks: Sequence[int], how: str) -> Iterator[str]:
    """Yield the lines of the table.

    Args:
        job: the step.
        link: the network between ranks.
        ranks: numbers of ranks.
        how: origin of the compute: "given", or where it was measured.
    """
    yield f"{job.parameters:,} parameters, batch {job.batch} a rank, {1e3 * job.compute:,.2f} ms on one alone ({how})"
    shards = f", and {_size(4 * job.parameters)} of weights gathered" if job.shard else ""
    yield f"{_size(job.sent)} of gradient summed in {job.sums}{shards}; between ranks {link}"
    yield ""
    timing = f"{'step ms':>11}{'of it':>8}"
    yield f"{'':<23}{'sums after the backward':^41}{'within the backward':^30}{'memory a rank':^22}".rstrip()
    yield (
        f"{'ranks':>7}{'by':>6}{'sent ms':>10}{timing}{'samples/s':>12}{'90 % from':>11}{timing}{'90 % from':>11}"
        f"{'whole':>11}{'sharded':>11}"
    )
    for p in ranks:
        found = foretell(job, p, link)
        after, within = (f"{1e3 * each.seconds:>11,.2f}{each.efficiency:>8.1%}" for each in (found.after, found.within))
        yield (
            f"{p:>7,}{found.by if p > 1 else '':>6}{1e3 * found.sent:>10,.3f}"
            f"{after}{p * job.batch / found.after.seconds:>12,.0f}{found.after.least_batch:>11,}"
            f"{within}{found.within.least_batch:>11,}"
            f"{_size(job.memory(p, False)):>11}{_size(job.memory(p, True)):>11}"
        )
    yield ""
    yield (
        "Of it: the share of compute in the step. 90 % from: the smallest batch a rank for which that is 90 %. With "
        "MPI, and with shards, sums come after the backward; with NCCL they begin with the first gradients. Memory is "
        "without activations."
    )


def _entry(job: Job, found: Foretold) -> dict[str, Any]:
    timings = {"after_backward": found.after, "within_backward": found.within}
    return {
        "ranks": found.ranks,
        "by": found.by if found.ranks > 1 else None,
        "sent_seconds": found.sent,
        **{
            name: {
                "step_seconds": timing.seconds,
                "efficiency": timing.efficiency,
                "samples_per_second": found.ranks * job.batch / timing.seconds,
                "least_batch": timing.least_batch,
            }
            for name, timing in timings.items()
        },
        "memory_bytes": job.memory(found.ranks, False),
        "sharded_memory_bytes": job.memory(found.ranks, True),
    }


def _quantity(text: str, units: dict[str, float]) -> float | None:
    """Return the number in a text with one of these units; None if the text has another form."""
    found = QUANTITY.fullmatch(text.strip())
    if not found or found[2] not in units:
        return None
    value = float(found[1]) * units[found[2]]
    return value if isfinite(value) else None


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _size(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
