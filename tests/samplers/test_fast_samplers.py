"""The samplers' own formulas, options and manners."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.affine import GAUSSIAN
from helpers.flow import refused
from helpers.gaussians import THREE, Floats
from tinyddpm import registry, samplers
from tinyddpm.backend import load_backend
from tinyddpm.diffusion.denoiser import Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.errors import ConfigError, TinyDDPMError
from tinyddpm.samplers import (
    Step,
    ddim,
    ddim_encode,
    dpmpp_2m,
    dpmpp_2m_sde,
    euler,
    heun,
    make_pairs,
    make_sampler,
    trailing_pairs,
    unipc,
)
from tinyddpm.testing import check_sampler

PROCESS = GaussianProcess(load_backend("numpy"), make_betas("linear", 1000), dtype=np.float64)
DENOISER = THREE.denoiser(PROCESS)
X = np.random.default_rng(3).standard_normal((16, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddim", {}),
        ("ddim", {"eta": 0.5}),
        ("ddim", {"eta": 1.0}),
        ("dpmpp-2m", {}),
        ("dpmpp-2m-sde", {}),
        ("euler", {}),
        ("heun", {}),
        ("heun", {"over": "tau"}),
        ("unipc", {}),
        ("unipc", {"order": 3}),
    ],
)
def test_conformance(name: str, options: dict[str, Any]) -> None:
    check_sampler(name, **options)


def test_encoding_reaches_pure_noise() -> None:
    """On a chain that ends without signal the flow takes x of N(μ, Σ) to Σ^−½ (x − μ): all its covariances commute.

    DDIM upwards is off from that by an error of the first order, which halves, to a tenth, as the steps double.
    """
    process = GaussianProcess(load_backend("numpy"), zero_terminal_snr(make_betas("linear", 1000)), dtype=np.float64)
    variances, axes = np.linalg.eigh(GAUSSIAN.covariance)
    expected = (X - GAUSSIAN.mean) @ (axes / np.sqrt(variances)) @ axes.T
    errors = []
    for steps in (250, 500, 1000):
        *_, last = ddim_encode(process, GAUSSIAN.denoiser(process), X, trailing_pairs(1000, steps))
        errors.append(np.abs(last.x - expected).max())
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 2, rtol=0.1)
    assert errors[-1] < 0.02


def one_step(sampler: Any, pair: tuple[int, int], noise: Any = refused, **options: Any) -> Floats:
    (step,) = sampler(PROCESS, DENOISER, X, [pair], noise, **options)
    return step.x


def test_ddim_with_eta_1_has_the_ancestral_moments() -> None:
    """At every step of the chain, mean and variance of x_prev given x_t are those of p with beta-tilde, to rounding:
    the posterior's at the predicted x_0.

    The mean is the step without noise; the variance is the square of what unit noise adds.
    """
    for t, t_prev in trailing_pairs(1000):
        quiet = one_step(ddim, (t, t_prev), lambda t: np.zeros_like(X), eta=1.0)
        loud = one_step(ddim, (t, t_prev), lambda t: np.ones_like(X), eta=1.0)
        mean, variance = PROCESS.q_posterior(DENOISER(X, t).x_0, X, t, t_prev)
        np.testing.assert_allclose(quiet, mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose((loud - quiet) ** 2, np.full_like(X, variance), rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("pair", [(999, 899), (500, 499), (40, 3)])
def test_first_steps_are_ddim(pair: tuple[int, int]) -> None:
    """Without a step before it, DPM-Solver++ is DDIM, its SDE variant DDIM with eta = 1; so is UniPC's predictor."""
    noise = lambda t: np.full_like(X, 0.7)  # noqa: E731
    expected = one_step(ddim, pair)
    for sampler in (dpmpp_2m, unipc):
        np.testing.assert_allclose(one_step(sampler, pair), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        one_step(dpmpp_2m_sde, pair, noise), one_step(ddim, pair, noise, eta=1.0), rtol=1e-9, atol=1e-12
    )


LAM = np.cumsum(np.random.default_rng(7).uniform(0.02, 0.2, 40))[::-1]
"""λ at the times of a chain whose steps are of unequal length."""
ALPHA = (1 + np.exp(-2 * LAM)) ** -0.5
SIGMA = (1 + np.exp(2 * LAM)) ** -0.5
LINE = GaussianProcess(PROCESS.backend, 1 - (ALPHA / np.concatenate([[1.0], ALPHA[:-1]])) ** 2, np.float64)


def on_a_line(x_t: Floats, t: int) -> Prediction:
    """A prediction that moves evenly: x_0 = λ / 2, whatever x_t is."""
    x_0 = np.full_like(x_t, LAM[t] / 2)
    return Prediction(x_0, (x_t - ALPHA[t] * x_0) / SIGMA[t])


def test_unipc_is_exact_on_a_line() -> None:
    """x / alpha = (λ − 1) / 2 + constant e^(−λ) solves the flow for x_0 = λ / 2.

    The first step has two points once it is corrected, and takes their line in the middle. From there on three points
    determine the line: the rest of the way is exact but for rounding.
    """
    *_, before, _ = unipc(LINE, on_a_line, X, trailing_pairs(40), refused)
    kept = SIGMA[-2] / SIGMA[-1]
    start = kept * X + (ALPHA[-2] - kept * ALPHA[-1]) * (LAM[-1] + LAM[-2]) / 4
    constant = (start / ALPHA[-2] - (LAM[-2] - 1) / 2) * np.exp(LAM[-2])
    # What a step's corrector gains shows in the next: the last step but one is still predicted, by a line's middle.
    end = SIGMA[0] / SIGMA[1] * ALPHA[1] * ((LAM[1] - 1) / 2 + constant * np.exp(-LAM[1]))
    end = end + (ALPHA[0] - SIGMA[0] / SIGMA[1] * ALPHA[1]) * (LAM[0] + LAM[1]) / 4
    np.testing.assert_allclose(before.x, end, rtol=1e-11, atol=1e-12)


def published(order: int, pairs: list[tuple[int, int]]) -> Floats:
    """Return where UniPC leads X, in the differences and the B(h) = e^(−h) − 1 that the paper writes it in.

    Algorithms 1 and 2 for predicted x_0, with what the authors' own code adds: a single coefficient is 1/2, and the
    last steps are of the order that is left.
    """
    lam = 0.5 * np.log(PROCESS.alpha_bar / (1 - PROCESS.alpha_bar))
    alpha, sigma = PROCESS.alpha_bar**0.5, (1 - PROCESS.alpha_bar) ** 0.5

    def step(x: Floats, s: int, t: int, known: list[tuple[int, Floats]], arrived: Floats | None) -> Floats:
        """From s to t: `known` are predictions up to s, `arrived` the one at t."""
        h = lam[t] - lam[s]
        (_, m_0), *others = reversed(known)
        ratios = [(lam[time] - lam[s]) / h for time, _ in others]
        slopes = [(m - m_0) / r for (_, m), r in zip(others, ratios, strict=True)]
        if arrived is not None:
            ratios, slopes = [*ratios, 1.0], [*slopes, arrived - m_0]
        b, phi, factorial = [], np.expm1(-h) / -h - 1, 1
        for k in range(1, len(ratios) + 1):
            b.append(phi * factorial / np.expm1(-h))
            factorial *= k + 1
            phi = phi / -h - 1 / factorial
        a = [0.5] if len(b) == 1 else np.linalg.solve(np.vander(ratios, increasing=True).T, b) if b else []
        mixed = sum((c * slope for c, slope in zip(a, slopes, strict=True)), np.zeros_like(x))
        return sigma[t] / sigma[s] * x - alpha[t] * np.expm1(-h) * (m_0 + mixed)

    x = corrected = X
    known: list[tuple[int, Floats]] = []
    for left, (t, t_prev) in zip(range(len(pairs), 0, -1), pairs, strict=True):
        m = DENOISER(x, t).x_0
        if known:
            corrected = step(corrected, known[-1][0], t, known, m)
        known = [*known, (t, m)][-min(order, left) :]
        x = step(corrected, t, t_prev, known, None) if t_prev >= 0 else m
    return x


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spacing", ["uniform", "karras", "trailing"])
@pytest.mark.parametrize("steps", [2, 3, 4, 9])
def test_unipc_is_the_published_one(order: int, spacing: str, steps: int) -> None:
    """The polynomial through the predictions and the paper's sum of differences are one number, to rounding."""
    pairs = make_pairs(spacing, PROCESS.alpha_bar, steps)
    *_, last = unipc(PROCESS, DENOISER, X, pairs, refused, order=order)
    np.testing.assert_allclose(last.x, published(order, pairs), rtol=1e-9, atol=1e-11)


def test_a_third_point_leads_nowhere_else_in_few_steps() -> None:
    """On uniform times, whose last steps in λ are the longest: at any order the error is less than the data's spread.

    Order 3 on all steps, with exact integrals of lines, ends 3.1 away: outside the data.
    """
    *_, exact = heun(PROCESS, DENOISER, X, make_pairs("karras", PROCESS.alpha_bar, 1000), refused)
    pairs = make_pairs("uniform", PROCESS.alpha_bar, 10)

    def error(order: int) -> float:
        *_, last = unipc(PROCESS, DENOISER, X, pairs, refused, order=order)
        return float(np.sqrt(np.mean((last.x - exact.x) ** 2)))

    assert max(error(order) for order in (1, 2, 3)) < np.sqrt(np.trace(THREE.covariance) / 2)


@pytest.mark.parametrize("start", range(5, 40))
def test_dpm_solver_takes_a_line_in_its_middle(start: int) -> None:
    """For x_0 = λ / 2, every second step, of any two lengths, is the exact one for x_0 half-way through it.

    The exact step of the flow for a constant x_0 keeps eps; that of the SDE has the posterior's moments (DDPM, eq. 7).
    """
    t, t_prev, end = start, start - 2, start - 5
    middle = (LAM[t_prev] + LAM[end]) / 4
    first, second = dpmpp_2m(LINE, on_a_line, X, [(t, t_prev), (t_prev, end)], refused)
    eps = (first.x - ALPHA[t_prev] * middle) / SIGMA[t_prev]
    np.testing.assert_allclose(second.x, ALPHA[end] * middle + SIGMA[end] * eps, rtol=1e-10, atol=1e-12)

    ones = lambda t: np.ones_like(X)  # noqa: E731
    first, second = dpmpp_2m_sde(LINE, on_a_line, X, [(t, t_prev), (t_prev, end)], ones)
    mean, variance = LINE.q_posterior(np.full_like(X, middle), first.x, t_prev, end)
    np.testing.assert_allclose(second.x, mean + variance**0.5, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("sampler", "evaluations"), [(ddim, 3), (euler, 3), (dpmpp_2m, 3), (unipc, 3), (heun, 5)])
def test_cost_and_noise(sampler: Any, evaluations: int) -> None:
    """How often three steps ask the denoiser; these samplers ask for no noise."""
    asked = []

    def counting(x_t: Floats, t: int) -> Prediction:
        asked.append(t)
        return DENOISER(x_t, t)

    assert len(list(sampler(PROCESS, counting, X, [(999, 500), (500, 0), (0, -1)], refused))) == 3
    assert len(asked) == evaluations
    assert asked == sorted(asked, reverse=True)


@pytest.mark.parametrize("sampler", [dpmpp_2m_sde, lambda *arguments: ddim(*arguments, eta=0.3)], ids=["sde", "ddim"])
def test_noise_is_asked_for_once_a_step_and_not_at_the_last(sampler: Any) -> None:
    asked = []

    def noise(t: int) -> Floats:
        asked.append(t)
        return np.zeros_like(X)

    pairs = trailing_pairs(1000, 10)
    list(sampler(PROCESS, DENOISER, X, pairs, noise))
    assert asked == [t for t, t_prev in pairs if t_prev >= 0]


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("ddim", {"eta": -0.1}, r"eta is -0\.1: give a number from 0"),
        ("ddim", {"eta": 1.5}, r"eta is 1\.5: give a number from 0"),
        ("ddim", {"eta": float("nan")}, "eta is nan"),
        ("heun", {"over": "lambda"}, "over is 'lambda': give 'sigma'"),
        ("unipc", {"order": 4}, "order is 4: give 1, 2 or 3"),
        ("unipc", {"order": 0}, "order is 0: give 1, 2 or 3"),
        ("ancestral", {"variance": "medium"}, "variance is 'medium': give 'large'"),
        ("dpmpp-2m", {"order": 3}, "unknown option of sampler 'dpmpp-2m'"),
    ],
)
def test_bad_options_are_refused_by_the_call(name: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        make_sampler(name, **options)(PROCESS, DENOISER, X, trailing_pairs(1000, 5), refused)


def test_samplers_have_their_names_in_the_package() -> None:
    """Each function is offered under the name of its entry, and is the entry's; no module stands in its place."""
    for entry in registry.entries("samplers"):
        if entry.distribution == "tinyddpm":
            offered = getattr(samplers, entry.name.replace("-", "_"))
            assert offered is registry.load("samplers", entry.name)


@pytest.mark.parametrize(
    ("plain", "line"),
    [
        (lambda p, d, x, pairs, noise: iter([(0, x, x)]), r"yields a tuple: make it yield Step\(t, x, x_0\)"),
        (lambda p, d, x, pairs, noise: x, r"returns a ndarray: make it yield Step\(t, x, x_0\)"),
        (
            lambda p, d, x, pairs, noise: iter([Step(0, x[:, :1], x)]),
            r"yields float64 of shape \(16, 1\) for float64 of shape \(16, 2\): make it keep both",
        ),
        (
            lambda p, d, x, pairs, noise: iter([Step(0, x.astype(np.float32), x)]),
            r"yields float32 of shape \(16, 2\) for float64 of shape \(16, 2\): make it keep both",
        ),
        (lambda p, x: iter(()), r"cannot be called with the 5 arguments .*: its signature is \(p, x\)"),
    ],
)
def test_a_sampler_without_the_contract_is_named(plain: Any, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda group, name: plain)
    with pytest.raises(TinyDDPMError, match=f"^sampler 'plain' {line}$"):
        next(make_sampler("plain")(PROCESS, DENOISER, X, [(999, -1)], refused))
