"""Straightness of the probability flow's paths from noise to data.

In rectified flow's coordinates z = x / (α + σ) and time τ = σ / (α + σ), z is x_0 at τ = 0 and eps at τ = 1. The
straightness of a flow (arXiv 2209.03003, section 2.2) is 0 for straight lines:

    S(Z) = ∫_0^1 E ‖(Z_1 − Z_0) − dZ_τ/dτ‖² dτ

Here it is divided by the number of dimensions. At S = 0 one Euler step is exact. Any Gaussian chain has these
coordinates, with dZ_τ/dτ = eps − x_0 as predicted. The exact flow to N(μ, s² I) has S = (2 − π/2) s per dimension:

    Z_τ = (1 − τ) μ + g(τ) ξ,   g² = (1 − τ)² s² + τ²,   S = ∫_0^1 g'² dτ − (1 − s)²,   g'² = 1 + s² − s² / g²
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from tinyddpm.backend import Array, Purpose
from tinyddpm.conditions import Known, some
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.figures.charts import Chart, Line
from tinyddpm.figures.line_law import Floats
from tinyddpm.model.model import Model
from tinyddpm.model.sampling import check_finite
from tinyddpm.model.tables import GuidanceConfig, SamplingConfig
from tinyddpm.samplers import Step, level

HostArray = np.ndarray[Any, Any]


class Bends(NamedTuple):
    """Deviations of the paths of n samples from straight lines.

    Attributes:
        tau: (K,), times τ of the steps, decreasing.
        off: (K, n), the mean square over dimensions of (Z_1 − Z_0) − dZ_τ/dτ.
        line: (n,), the mean square over dimensions of Z_1 − Z_0.
    """

    tau: Floats
    off: Floats
    line: Floats

    @property
    def total(self) -> Floats:
        """S of each sample's path, (n,), by the trapezoidal rule.

        Below the last τ the path is a line, so that the integrand is constant. The range of τ above the chain's first
        step is not included.
        """
        total: Floats = np.trapezoid(self.off[::-1], self.tau[::-1], axis=0) + self.tau[-1] * self.off[-1]
        return total


def bends(process: GaussianProcess, x: Array, steps: Iterable[Step]) -> Bends:
    """Return the deviations of a sampler's paths from straight lines.

    Args:
        process: the Gaussian process.
        x: (N, ...), the starts of the paths, at time T − 1.
        steps: steps of a deterministic sampler from x to the data.

    Raises:
        DrawingError: the end of a path is not finite.
    """

    def host(array: Array) -> Floats:
        flat = process.backend.to_numpy(array).astype(np.float64)
        return flat.reshape(len(flat), -1)

    first, start, tau, slopes = level(process, process.T - 1), host(x), [], []
    for step in steps:
        at = level(process, step.t)
        z = host(x) / (at.alpha + at.sigma)
        tau.append(at.tau)
        slopes.append((z - host(step.x_0)) / at.tau)  # z = x_0 + τ (eps − x_0)
        x = step.x
    check_finite(host(x))
    line = (start / (first.alpha + first.sigma) - host(x)) / first.tau
    off = [np.mean((line - slope) ** 2, axis=1) for slope in slopes]
    return Bends(np.asarray(tau), np.stack(off), np.mean(line**2, axis=1))


def straightness(
    model: Model,
    weights: Array,
    numbers: HostArray,
    asked: Known,
    *,
    seed: int,
    sampling: SamplingConfig,
    guidance: GuidanceConfig | None = None,
    batch_size: int,
    watch: Callable[[int, int], None] = lambda done, steps: None,
) -> Bends:
    """Draw samples from a model and return the deviations of their paths from straight lines.

    Args:
        model: the model.
        weights: its flat parameters on the device.
        numbers: (n,), sample numbers as in `tinyddpm sample`.
        asked: the condition asked for, one row per sample.
        seed: seed of the noise.
        sampling: a deterministic sampler, options and steps.
        guidance: the guidance; that of the configuration by default.
        batch_size: number of samples at a time.
        watch: called after each step with the number of steps done and their total.
    """
    parts = [slice(first, first + batch_size) for first in range(0, len(numbers), batch_size)]
    done, total = count(1), len(parts) * len(model.pairs(sampling))

    def watched(steps: Iterable[Step]) -> Iterable[Step]:
        for step in steps:
            watch(next(done), total)
            yield step

    found = []
    for rows in parts:
        with model.backend.scope():
            x = model.backend.random(seed).normal(Purpose.SAMPLE_START, 0, numbers[rows], model.sample_shape)
        steps = model.sample(weights, numbers[rows], some(asked, rows), seed, sampling, guidance)
        found.append(bends(model.process, x, watched(steps)))
    tau, off, line = zip(*found, strict=True)
    return Bends(tau[0], np.concatenate(off, axis=1), np.concatenate(line))


def straightness_chart(runs: Mapping[str, Bends]) -> Chart:
    """Return the chart of E ‖(Z_1 − Z_0) − dZ_τ/dτ‖² per dimension over τ, one line per run."""
    lines = [
        Line(name, (found.tau[::-1].tolist(), found.off[::-1].mean(axis=1).tolist()), number)
        for number, (name, found) in enumerate(runs.items())
    ]
    return Chart("How far paths are from straight, mean square of (Z₁ − Z₀) − dZ/dτ", tuple(lines), below="τ")
