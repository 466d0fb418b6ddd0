"""What a training step takes on p ranks, foretold by the latency-bandwidth model.

A message of m bytes takes a + m/B, of a link with latency a and bandwidth B; one such link is meant between any two
ranks, so it is the slowest that counts. The sum of n bytes over p ranks, left on all of them, takes

    ring: 2 (p - 1) a + 2 (p - 1)/p n/B    each rank sums a part of n/p bytes, then gathers those of the others
    tree: 2 ceil(log2 p) a + 2 n/B         up a tree and down again, in pieces that follow each other

and the quicker is counted. The ring is that of Thakur, Rabenseifner and Gropp, "Optimization of Collective
Communication Operations in MPICH" (2005), whose halving and doubling has the tree's latency too; the tree is NCCL's two
binary trees, by Sanders, Speck and Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan"
(2009). Where ranks keep shards, one half of the ring sums the gradient and the other gathers the weights, in float32
whatever the sums are sent in.

A step is then its compute C on one rank, and what it waits for sums:

    after the backward:   S + G
    within the backward:  max(S_k, k S_k - 2/3 C (k - 1)/k) + G

S is the sum of the whole gradient, S_k that of one of k equal pieces, G the gathering of weights where ranks keep
shards. Pieces are ready one after the other during the backward, which is two thirds of the compute as it has two
products for each of the forward; each waits for the one before it, and nothing hides the last (Li et al., "PyTorch
Distributed", 2020). By NCCL this library sums within the backward, unless ranks keep shards; by MPI after it.

Not counted: the additions of a sum, the loss and the stop that ranks agree on each step (a few times ceil(log2 p) a),
ranks that wait for the slowest, and the data.
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
"""The part of a step's compute in which gradients become ready."""

EFFICIENT = 0.9
"""The part of a step that is compute where more ranks are said to pay."""

NUMBER_BYTES = {"fp32": 4, "bf16": 2}
"""Bytes of a number as sums send it."""

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
    """What lies between two ranks: bytes a second, and seconds before the first byte."""

    bandwidth: float
    latency: float

    def __str__(self) -> str:
        bandwidth, latency = self.bandwidth, self.latency
        speed = f"{bandwidth / 1e9:.4g} GB/s" if bandwidth >= 1e8 else f"{bandwidth / 1e6:.4g} MB/s"
        return f"{speed}, {f'{1e3 * latency:.3g} ms' if latency >= 1e-3 else f'{1e6 * latency:.3g} µs'}"


def parse_link(text: str) -> Link:
    """Return the link that a text such as "50GB/s,3us" tells of; b are bits, B bytes.

    Raises:
        ConfigError: it is none.
    """
    first, comma, second = text.partition(",")
    bandwidth, latency = _quantity(first, BANDWIDTHS), _quantity(second, LATENCIES)
    if not comma or not bandwidth or latency is None:
        raise ConfigError(f"--link {text!r}: write BANDWIDTH,LATENCY in GB/s, Gb/s or MB/s, and us or ms: 50GB/s,3us")
    return Link(bandwidth, latency)


def parse_ranks(text: str) -> list[int]:
    """Return the numbers of ranks that a text such as "1,8,64,1024" tells of.

    Raises:
        ConfigError: one is no number from 1 on.
    """
    found = [name.strip() for name in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", name) and int(name) for name in found):
        raise ConfigError(f"--ranks {text!r}: write numbers of ranks from 1 on, with commas between: 1,8,64,1024")
    return [int(name) for name in found]


def parse_parameters(text: str) -> int:
    """Return the number that a text such as "35746307", "35.7M" or "1B" tells of.

    Raises:
        ConfigError: it is none.
    """
    found = _quantity(text, COUNTS)
    if not found or round(found) < 1:
        raise ConfigError(f"--parameters {text!r}: write a number, such as 35746307, 35.7M or 1B")
    return round(found)


def ring_seconds(n: float, p: int, link: Link) -> float:
    """Return the seconds of a sum of n bytes over a ring of p ranks."""
    return 2 * half_ring_seconds(n, p, link)


def half_ring_seconds(n: float, p: int, link: Link) -> float:
    """Return the seconds in which each of p ranks sums its part of n bytes, or in which all gather the parts."""
    return (p - 1) * link.latency + (p - 1) / p * n / link.bandwidth


def tree_seconds(n: float, p: int, link: Link) -> float:
    """Return the seconds of a sum of n bytes over a tree of p ranks; one rank alone has nothing to sum."""
    return 2 * (p - 1).bit_length() * link.latency + 2 * n / link.bandwidth if p > 1 else 0.0


def fitted_link(sizes: Sequence[float], seconds: Sequence[float], p: int) -> Link:
    """Return the link by which ring sums of these bytes over p ranks take these seconds, by least squares of what each
    is off in proportion.

    Args:
        sizes: two or more that differ.
        seconds: positive.
        p: two or more.
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
    """A training step on each of some ranks.

    Attributes:
        parameters: of the network.
        batch: samples of each rank.
        compute: seconds that they take one rank alone.
        sums: what is sent of gradients, "fp32" or "bf16".
        shard: whether ranks keep and step a part each of Adam's state and of the average.
    """

    parameters: int
    batch: int
    compute: float
    sums: str = "fp32"
    shard: bool = False

    @property
    def sent(self) -> int:
        """Bytes of the gradient as it is summed."""
        return self.parameters * NUMBER_BYTES[self.sums]

    def memory(self, p: int, shard: bool) -> float:
        """Return the bytes that one of p ranks keeps, without activations: 20 a parameter.

        4 are the weight, 4 its gradient, and 12 the average and Adam's two moments, which shards divide.
        """
        return self.parameters * (8 + 12 / (p if shard else 1))


@dataclass(frozen=True)
class Exchange:
    """What ranks send each other in a step.

    Attributes:
        count: of pieces that the gradient is cut in.
        piece: seconds that the sum of one takes.
        gather: seconds in which the weights are gathered.
    """

    count: int
    piece: float
    gather: float

    def wait(self, compute: float) -> float:
        """Return for how long a step of so much compute waits."""
        hidden = BACKWARD * compute * (self.count - 1) / self.count
        return max(self.piece, self.count * self.piece - hidden) + self.gather

    def least_compute(self, efficiency: float) -> float:
        """Return the seconds of compute from which on the step is compute for this part, above 0 and below 1."""
        share = (1 - efficiency) / efficiency  # wait <= share * compute
        hidden = BACKWARD * (self.count - 1) / self.count
        return max((self.piece + self.gather) / share, (self.count * self.piece + self.gather) / (share + hidden))


def exchange(job: Job, p: int, link: Link, count: int) -> Exchange:
    """Return what p ranks send in a step of the job, whose gradient is cut in so many pieces."""
    gather = half_ring_seconds(4 * job.parameters, p, link) if job.shard else 0.0
    return Exchange(count, sum_seconds(job, job.sent / count, p, link)[0], gather)


def sum_seconds(job: Job, n: float, p: int, link: Link) -> tuple[float, str]:
    """Return the seconds of the sum of n bytes of the job's gradient over p ranks, and by what: "ring" or "tree"."""
    if job.shard:
        return half_ring_seconds(n, p, link), "ring"
    return min((ring_seconds(n, p, link), "ring"), (tree_seconds(n, p, link), "tree"))


@dataclass(frozen=True)
class Timing:
    """A step's seconds, the part of it that is compute, and the batch a rank at which that is `EFFICIENT`.

    The compute of another batch is taken to be in proportion.
    """

    seconds: float
    efficiency: float
    least_batch: int


@dataclass(frozen=True)
class Foretold:
    """A step on p ranks.

    Attributes:
        ranks: p.
        by: "ring" or "tree".
        sent: seconds in which the ranks send, the gathering of weights included.
        after: where sums follow the backward.
        within: where they begin within it, in pieces as large as the library's.
    """

    ranks: int
    by: str
    sent: float
    after: Timing
    within: Timing


def foretell(job: Job, p: int, link: Link) -> Foretold:
    """Return what a step of the job takes on p ranks."""
    whole, cut = (exchange(job, p, link, count) for count in (1, max(1, job.parameters // LEAST)))
    _, by = sum_seconds(job, job.sent, p, link)
    return Foretold(p, by, whole.wait(job.compute), _timing(job, whole), _timing(job, cut))


def _timing(job: Job, found: Exchange) -> Timing:
    seconds = job.compute + found.wait(job.compute)
    least = found.least_compute(EFFICIENT)
    return Timing(seconds, job.compute / seconds, max(1, ceil(job.batch * least / job.compute)))


def as_json(job: Job, link: Link, ranks: Sequence[int], measured: Sequence[float]) -> dict[str, Any]:
    """Return what is foretold, for `json.dumps`. Times are in seconds, rates a second, sizes in bytes.

    Args:
        job: the step.
        link: between ranks.
        ranks: how many.
        measured: the seconds of a step in each turn; empty where the compute was given.
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
        link: between ranks.
        ranks: how many.
        how: the compute came to be known.
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
        "Of it: the part of the step that is compute. 90 % from: the batch a rank from which that is 90 %. By MPI, and "
        "with shards, sums come after the backward; by NCCL they begin with the first gradients. No activations are in "
        "the memory."
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
    """Return a number with one of these units; None if it is no such thing."""
    found = QUANTITY.fullmatch(text.strip())
    if not found or found[2] not in units:
        return None
    value = float(found[1]) * units[found[2]]
    return value if isfinite(value) else None


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _size(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
