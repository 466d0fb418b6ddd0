"""Figures of the process in one dimension: diffused densities, the kernel against the chain, and the posterior."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinyddpm.backend import Purpose, Random
from tinyddpm.diffusion.process import GaussianProcess, posterior_coefficients
from tinyddpm.figures.line_law import Floats, Law, density, diffused, posterior, reverse
from tinyddpm.figures.marks import Mark
from tinyddpm.figures.style import COLOURS, DENSITIES, INK, QUIET, drawing
from tinyddpm.samplers.spacings import moments

PathLike = str | os.PathLike[str]

COLUMNS, PATHS, SHOWN = 160, 12, 5
"""Of the figure `diffused`: times on its map, chains drawn over the map, and times with a histogram of samples."""


class Diffusion(NamedTuple):
    """The density of x_t in one dimension over time.

    Attributes:
        x: (X,), points of evaluation.
        t: (K,), times.
        densities: (K, X), densities of x_t.
        paths: (P, 1 + T), chains that begin with x_0.
    """

    x: Floats
    t: Floats
    densities: Floats
    paths: Floats

    @property
    def brightest(self) -> float:
        """Density of the brightest colour, low enough that narrow modes at the first times do not darken the rest."""
        return max(0.45, 1.2 * float(self.densities[-1].max()))


def diffusion(process: GaussianProcess, law: Law, starts: Floats, limit: float, seed: int = 0) -> Diffusion:
    """Return the exact density of x_t over time, and chains simulated step by step.

    Args:
        process: a process on NumPy in float64.
        law: the law of x_0.
        starts: (P, 1), the x_0 of the chains.
        limit: densities are evaluated from −limit to limit.
        seed: seed of the chains' noise.
    """
    x, t = np.linspace(-limit, limit, 241), np.asarray(moments(process.T, COLUMNS))
    chain = process.chain(starts, _noise(process.T, len(starts), seed))
    return Diffusion(
        x,
        t.astype(np.float64),
        np.stack([density(diffused(law, process.alpha_bar[time]), x) for time in t]),
        np.concatenate([starts, *chain], axis=1),
    )


def reach(points: Floats) -> float:
    """Return the `limit` of the figure `diffused` for these samples."""
    return max(3.5, 1.1 * float(np.abs(points).max()))


def draw_diffused(
    process: GaussianProcess,
    law: Law,
    points: Floats,
    found: Diffusion,
    path: PathLike,
    *,
    t: int | None = None,
    seed: int = 0,
    mark: Mark | None = None,
) -> None:
    """Write the figure `diffused`: a map of q(x_t) over t, its density beside samples, and the kernel as a convolution.

    Args:
        process: a process on NumPy in float64.
        law: the law of x_0.
        points: (n, 1), samples of this law.
        found: as returned by `diffusion` for this law.
        path: the file to write, PNG or SVG.
        t: time at which the convolution is shown; T // 4 by default.
        seed: seed of the noise.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
        DataError: the file cannot be written.
    """
    t = process.T // 4 if t is None else t
    eps = Random(np, seed).normal(Purpose.NOISE, 0, np.arange(len(points)), (1,), layer=1).astype(np.float64)
    with drawing(path, (10, 8.4), mark) as figure:
        above, middle, below = figure.subfigures(3, 1, height_ratios=(3.4, 2.3, 2.7))
        _draw_map(above, found)
        _draw_moments(middle, process, law, points, eps, found.x)
        _draw_convolution(below, process, law, points, t, found.x)


def _draw_map(figure: Any, found: Diffusion) -> None:
    chart = figure.subplots()
    mesh = chart.pcolormesh(
        found.t, found.x, found.densities.T, cmap=DENSITIES, vmin=0, vmax=found.brightest, shading="nearest",
        rasterized=True,
    )  # fmt: skip
    T = found.paths.shape[1] - 1
    chart.plot(np.arange(-1, T), found.paths.T, color="white", linewidth=0.5, alpha=0.55)
    chart.set(title="Density $q(x_t)$ over time, and some chains", xlabel="t", ylabel="$x_t$", xlim=(-1, T - 1))
    chart.set_ylim(found.x[0], found.x[-1])
    chart.grid(visible=False)
    figure.colorbar(mesh, label="density", extend="max", pad=0.01)


def _draw_moments(figure: Any, process: GaussianProcess, law: Law, points: Floats, eps: Floats, x: Floats) -> None:
    charts = figure.subplots(1, SHOWN, sharey=True)
    times = np.rint(np.linspace(0, 1, SHOWN) ** 1.5 * (process.T - 1)).astype(int).tolist()
    for chart, time in zip(charts, times, strict=True):
        sampled = process.q_sample(points, time, eps)
        chart.hist(sampled[:, 0], bins=70, range=(x[0], x[-1]), density=True, color=COLOURS[5], label="sampled")
        chart.plot(x, density(diffused(law, process.alpha_bar[time]), x), color=INK, linewidth=1.2, label="exact")
        chart.set(title=f"t = {time}", xlabel="$x_t$")
    charts[0].set_ylabel("density")
    charts[0].legend(loc="upper right")


def _draw_convolution(figure: Any, process: GaussianProcess, law: Law, points: Floats, t: int, x: Floats) -> None:
    signal, noise = process.level(points, t)
    shrunk, kernel, result = figure.subplots(1, 3)
    shrunk.hist(signal * points[:, 0], bins=120, range=(x[0], x[-1]), density=True, color=COLOURS[5])
    shrunk.set(title=f"$\\sqrt{{\\bar\\alpha_t}}\\,x_0$, shrunk to {signal:.2f}", ylabel="density")
    kernel.plot(x, density(Law(np.ones(1), np.zeros(1), np.array([noise**2])), x), color=COLOURS[1])
    kernel.set(title=f"∗  kernel $N(0,\\ 1-\\bar\\alpha_t)$, deviation {noise:.2f}")
    result.plot(x, density(diffused(law, process.alpha_bar[t]), x), color=INK)
    result.set(title=f"=  $q(x_t)$ at t = {t}")
    for chart in (shrunk, kernel, result):
        chart.set(xlim=(x[0], x[-1]), ylim=(0, None), xlabel="$x$")


class Kernel(NamedTuple):
    """Chains from one x_0, simulated step by step, and the closed form.

    Attributes:
        chains: (n, T), x_t at t = 0 … T − 1.
        signal: (T,), √alpha_bar_t.
        noise: (T,), √(1 − alpha_bar_t).
    """

    chains: Floats
    signal: Floats
    noise: Floats


def kernel(process: GaussianProcess, x_0: float, n: int, seed: int = 0) -> Kernel:
    """Return n chains from x_0 by eq. 2, step by step, and the coefficients of the closed form (DDPM eq. 4)."""
    chain = process.chain(np.full((n, 1), x_0), _noise(process.T, n, seed))
    return Kernel(np.concatenate([*chain], axis=1), process.alpha_bar**0.5, (1 - process.alpha_bar) ** 0.5)


def _noise(T: int, n: int, seed: int) -> Callable[[int], Floats]:
    """Return a function from t to the noise of n one-dimensional chains, (n, 1); all noise is drawn at once."""
    drawn = Random(np, seed).normal(Purpose.NOISE, 0, np.arange(n), (T,)).astype(np.float64)
    return lambda t: drawn[:, t : t + 1]


def draw_kernel(found: Kernel, x_0: float, path: PathLike, mark: Mark | None = None) -> None:
    """Write the figure `kernel`: moments and histograms of simulated chains, over the closed form.

    Args:
        found: as returned by `kernel`.
        x_0: start of the chains.
        path: the file to write, PNG or SVG.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
        DataError: the file cannot be written.
    """
    n, T = found.chains.shape
    t, few = np.arange(T), moments(T, 25)
    with drawing(path, (10, 6.4), mark) as figure:
        above, below = figure.subfigures(2, 1)
        mean, deviation = above.subplots(1, 2)
        mean.plot(t, found.signal * x_0, label="closed form, $\\sqrt{\\bar\\alpha_t}\\,x_0$")
        deviation.plot(t, found.noise, label="closed form, $\\sqrt{1-\\bar\\alpha_t}$")
        error = 2 * found.noise[few] / n**0.5
        shown = {"fmt": "o", "markersize": 3.5, "color": COLOURS[1], "elinewidth": 1}
        mean.errorbar(few, found.chains.mean(axis=0)[few], error, label=f"{n:,} chains ± 2 s.e.", **shown)
        deviation.errorbar(few, found.chains.std(axis=0)[few], error / 2**0.5, label=f"{n:,} chains ± 2 s.e.", **shown)
        mean.set(title="Mean of $x_t$", xlabel="t", ylabel="$E\\,x_t$")
        deviation.set(title="Standard deviation of $x_t$", xlabel="t", ylabel="$\\mathrm{sd}\\,x_t$")
        mean.legend()
        deviation.legend(loc="lower right")
        charts = below.subplots(1, 4)
        for chart, time in zip(charts, (0, T // 10, T // 3, T - 1), strict=True):
            values, signal, noise = found.chains[:, time], found.signal[time], found.noise[time]
            x = np.linspace(values.min(), values.max(), 200)
            chart.hist(values, bins=50, density=True, color=COLOURS[1], alpha=0.45, label="chains")
            law = Law(np.ones(1), np.array([signal * x_0]), np.array([noise**2]))
            chart.plot(x, density(law, x), color=COLOURS[0], label="closed form")
            chart.set(title=f"t = {time}", xlabel="$x_t$", ylabel="density" if time == 0 else "")
        below.legend(*charts[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def draw_posterior(
    process: GaussianProcess, law: Law, x_t: float, t: int, path: PathLike, mark: Mark | None = None
) -> None:
    """Write the figure `posterior`: its coefficients over t, and the exact reverse step beside the Gaussian posterior.

    Args:
        process: a process on NumPy in float64.
        law: the law of x_0, in one dimension.
        x_t: the number from which the reverse steps start.
        t: time of x_t, at least 2.
        path: the file to write, PNG or SVG.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
        DataError: the file cannot be written.
    """
    alpha_bar, paper_t = process.alpha_bar, np.arange(process.T) + 1  # from 1, for the log axis
    c = posterior_coefficients(alpha_bar, np.append(1.0, alpha_bar[:-1]))
    with drawing(path, (10, 6.6), mark) as figure:
        above, below = figure.subfigures(2, 1)
        means, variances = above.subplots(1, 2)
        means.plot(paper_t, c.c_0, label="$c_0$, of $x_0$")
        means.plot(paper_t, c.c_t, label="$c_t$, of $x_t$")
        means.set(title="Mean of $q(x_{t-1}|x_t,x_0)$: $c_0 x_0 + c_t x_t$", ylabel="coefficient")
        variances.plot(paper_t[1:], c.beta_tilde[1:], label="$\\tilde\\beta_t$, of the posterior")
        variances.plot(paper_t, c.beta, "--", label="$\\beta_t$, of the forward step")
        variances.set(title="Its variance", ylabel="variance", yscale="log")
        for chart in (means, variances):
            chart.set(xlabel="t, from 1", xscale="log")
            chart.legend()
        x_0 = reverse(law, alpha_bar[t], 1.0, x_t).mean
        charts = below.subplots(1, 3)
        for chart, t_prev in zip(charts, (t - 1, t - max(1, t // 4), t - max(1, 3 * t // 4)), strict=True):
            _draw_step(chart, alpha_bar, law, x_0, x_t, t, t_prev)
        charts[0].set_ylabel("density")
        below.legend(*charts[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _draw_step(chart: Any, alpha_bar: Floats, law: Law, x_0: float, x_t: float, t: int, t_prev: int) -> None:
    ends = alpha_bar[t], alpha_bar[t_prev]
    exact, gaussian = reverse(law, *ends, x_t), posterior(x_0, *ends, x_t)
    spread = float(exact.weights @ (exact.variances + (exact.means - exact.mean) ** 2)) ** 0.5
    x = np.linspace(exact.mean - 4 * spread, exact.mean + 4 * spread, 400)
    chart.fill_between(x, density(exact, x), color=COLOURS[5], alpha=0.5, label="exact $q(x_s|x_t)$")
    chart.plot(x, density(gaussian, x), color=COLOURS[1], label="$q(x_s|x_t,x_0)$ at $E[x_0|x_t]$")
    chart.axvline(x_t, color=QUIET, linewidth=1, linestyle=":", label="$x_t$")
    chart.set(title=f"from t = {t} to s = {t_prev}", xlabel="$x_s$", ylim=(0, None))
