"""Chains that share their noise down to some time and then branch: DDPM's figure 7, with the distance of endings."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.errors import ConfigError
from tinyddpm.figures.line_law import Floats
from tinyddpm.figures.marks import Mark
from tinyddpm.figures.style import COLOURS, drawing, show_tiles, tiles_size
from tinyddpm.figures.tiles import tiles_of
from tinyddpm.samplers import Pairs, Step
from tinyddpm.samplers.spacings import moments

HostArray = np.ndarray[Any, Any]
Sampling = Callable[[GaussianProcess, Denoiser, Array, Pairs, Callable[[int], Array]], Any]
"""A sampler with its options bound."""


class Branches(NamedTuple):
    """Start, branching time and number of each of N = starts · K · endings chains, (N,) integers each.

    Attributes:
        start: sample number of x_T and of the noise before branching, which chains share.
        leave: time t of the last x_t that the chain shares with others.
        own: sample number of the noise after branching, different for each chain.
    """

    start: HostArray
    leave: HostArray
    own: HostArray


def branches(leave: Sequence[int], starts: int, endings: int) -> Branches:
    """Return the chains for every combination of start, branching time and ending; the ending varies fastest."""
    start, time, _ = (index.ravel() for index in np.indices((starts, len(leave), endings)))
    return Branches(start, np.asarray(leave)[time], np.arange(len(start)))


class Endings(NamedTuple):
    """The samples of chains that branch at K times.

    Attributes:
        leave: (K,) branching times, decreasing.
        shared: (starts, K, ...), the last shared x_t.
        ends: (starts, K, endings, ...), the samples.
    """

    leave: Sequence[int]
    shared: HostArray
    ends: HostArray

    @property
    def distance(self) -> Floats:
        """Root mean squared difference of two endings of the same x_t, over all elements and starts, (K,)."""
        E = self.ends.shape[2]
        # The mean squared difference of pairs is twice the variance, so no pairs are formed.
        variance = self.ends.astype(np.float64).var(axis=2, ddof=1) if E > 1 else np.zeros_like(self.shared)
        found: Floats = (2 * variance.mean(axis=(0, *range(2, variance.ndim)))) ** 0.5
        return found


def endings(
    process: GaussianProcess,
    denoiser: Denoiser,
    sampler: Sampling,
    pairs: Pairs,
    leave: Sequence[int],
    shape: tuple[int, int],
    start: Array,
    noise: Callable[[int, HostArray], Array],
    chains: Branches,
    watch: Callable[[Step], None] = lambda step: None,
) -> Endings:
    """Draw all chains in one batch. Chains with the same start and branching time share their noise until then.

    Args:
        process: the Gaussian process.
        denoiser: denoiser of N samples.
        sampler: a stochastic sampler.
        pairs: its steps.
        leave: branching times, each visited by the steps.
        shape: (starts, endings).
        start: (N, ...) x_T, equal for equal `chains.start`.
        noise: returns standard normal noise for the step from a time, for given sample numbers.
        chains: as returned by `branches`.
        watch: called after each step.
    """
    xp, host = process.backend.xp, process.backend.to_numpy
    at = np.where(chains.leave == pairs[0][0])[0]
    shared = np.empty(start.shape, np.float32)
    shared[at] = host(start)[at]

    def step_noise(t: int) -> Array:
        together = process.backend.asarray((chains.leave < t).reshape(-1, *(1,) * (start.ndim - 1)))
        return xp.where(together, noise(t, chains.start), noise(t, len(chains.start) + chains.own))

    t_prev = dict(pairs)
    for step in sampler(process, denoiser, start, pairs, step_noise):
        watch(step)
        at = np.where(chains.leave == t_prev[step.t])[0]
        if len(at):
            shared[at] = host(step.x)[at]
    starts, count = shape
    grouped = (starts, len(leave), count, *start.shape[1:])
    return Endings(leave, shared.reshape(grouped)[:, :, 0], host(step.x).reshape(grouped))


def leaving_times(pairs: Pairs, count: int) -> list[int]:
    """Return up to `count` times visited by the steps, decreasing and evenly spread, the first and the last included.

    Raises:
        ConfigError: `count` is below 2.
    """
    if count < 2:
        raise ConfigError(f"{count} branching times: give at least 2")
    times = [t for t, _ in pairs]
    return [times[place] for place in moments(len(times), count)]


def draw_endings(found: Endings, unit: float, path: str | os.PathLike[str], mark: Mark | None = None) -> None:
    """Write the figure `content-detail`: endings of the first start, a row for each time, and their distance over t.

    Args:
        found: as returned by `endings`.
        unit: factor from the model's units to those of the chart, such as 127.5 for pixel values to 255.
        path: the file to write, PNG or SVG.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
        DataError: the samples cannot be shown as pictures, or the file cannot be written.
    """
    rows = [
        np.concatenate([tiles_of(shared[None]), *(tiles_of(end[None]) for end in ends)])
        for shared, ends in zip(found.shared[0], found.ends[0], strict=True)
    ]
    tiles = np.stack(rows)
    wide, high = tiles_size(tiles)
    with drawing(path, (wide + 3.8, max(high, 3.6)), mark) as figure:
        left, right = figure.subfigures(1, 2, width_ratios=(wide, 3.8))
        columns = ["shared $x_t$", *(str(number + 1) for number in range(found.ends.shape[2]))]
        show_tiles(left.subplots(), tiles, columns, [f"t = {t}" for t in found.leave])
        chart = right.subplots()
        chart.plot(found.leave, unit * found.distance, marker="o", markersize=4, color=COLOURS[0])
        chart.set(title="How far endings differ", xlabel="t at which they leave each other", ylim=(0, None))
        chart.set_ylabel("RMSE between two endings")
