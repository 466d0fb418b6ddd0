"""The conformance kit for samplers: with an exact denoiser, they must draw samples of a known Gaussian."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log, sqrt
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np

from tinyddpm.backend import Array, Backend, load_backend
from tinyddpm.diffusion.denoiser import Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.samplers import Step, trailing_pairs
from tinyddpm.samplers.base import level
from tinyddpm.testing.gradients import HostArray
from tinyddpm.testing.plugin import resolve

HostNoise: TypeAlias = Callable[[int], HostArray]

T = 1000
SEED = 20
SAMPLES = 40_000
FALSE_ALARM = 1e-6
"""Probability that a check fails a sampler whose law is within `tolerance`, over all its statistics together."""

MEAN = np.asarray([0.5, -0.25])
FACTOR = np.asarray([[0.8, 0.0], [0.3, 0.4]])
"""The data are x_0 = MEAN + FACTOR z, z ~ N(0, I): correlated, with different variances."""

POINT = 0.5
"""The data of the check along the path of the mean: every sample is this."""

OFF_THE_PATH = 0.05
"""Largest distance from that path in 100 steps, some five times that of Euler's method on the probability flow."""

DIRECTIONS = np.asarray([[1.0, 0.0], [0.0, 1.0], [sqrt(0.5), sqrt(0.5)]])
"""Unit vectors, shape (3, 2): the variances along these three determine a covariance in the plane."""


def check_sampler(
    sampler: str | Callable[..., Iterator[Step]], steps: int | None = None, tolerance: float = 0.02, **options: Any
) -> None:
    """Check that a sampler keeps its contract, and draws a correlated Gaussian with its exact denoiser.

    The contract: one `Step` per pair of times, in order; the denoiser is called at times of the chain; inputs and
    yielded steps are not written to; the same inputs give the same bits, also when two runs take turns; samples do not
    depend on their batch; float32 stays float32; the last step adds no noise. It is checked on NumPy, and on
    array-api-strict where it is installed.

    The path: where all data are one point and the noise is zero, each of 100 steps arrives at the mean of its t_prev,
    within 0.05, and yields the point as the predicted x_0. So a step that does not lead to t_prev is seen, which with
    all T steps it would not be. The samples are images there.

    The law: 40,000 samples are whitened by the exact mean and covariance. Along three directions, which determine a
    covariance, mean, variance and distribution function must be those of N(0, I), within bounds that samples of N(0, I)
    exceed with probability 1e-6, plus `tolerance`. The seed is fixed, so a check that passes keeps passing.

    Args:
        sampler: its registered name, or the function, see `tinyddpm.samplers.Sampler`.
        steps: number of steps that draw the Gaussian, on the linear schedule with T = 1000; all by default.
        tolerance: error due to the length of steps that is allowed in mean (in standard deviations), variance
            (relative) and distribution function.
        options: options of the sampler.

    Raises:
        AssertionError: the sampler breaks its contract; the line names the property.
    """
    function, what = resolve("samplers", sampler, arguments=5)
    host = _Gaussian(load_backend("numpy"), lambda *arguments: function(*arguments, **options), what)
    for few in (1, 2, 7):
        _check_steps(host, few)
    _check_last_step(host)
    _check_samples_apart(host)
    _check_stateless(host)
    _check_path(host)
    _check_standard(host)
    _check_time(host, steps, tolerance)


class _Gaussian:
    """A sampler on a process whose data are a known Gaussian, with the exact denoiser of that."""

    def __init__(self, backend: Backend, sampler: Callable[..., Iterator[Step]], what: str) -> None:
        self.backend, self.sampler, self.what = backend, sampler, what
        self.process = GaussianProcess(backend, make_betas("linear", T))

    def denoiser(self, x_t: Array, t: int) -> Prediction:
        """Return E[x_0 | x_t] = μ + √ᾱ Σ (ᾱ Σ + (1 − ᾱ) I)⁻¹ (x_t − √ᾱ μ), and the eps it implies."""
        assert isinstance(t, int), f"{self.what}: the denoiser is asked at t = {t!r}, a {type(t).__name__}: give an int"
        assert 0 <= t < T, f"{self.what}: the denoiser is asked at t = {t}, outside 0 to {T - 1}"
        alpha_bar, covariance = float(self.process.alpha_bar[t]), FACTOR @ FACTOR.T
        gain = sqrt(alpha_bar) * covariance @ np.linalg.inv(alpha_bar * covariance + (1 - alpha_bar) * np.eye(2))
        offset = MEAN - gain @ (sqrt(alpha_bar) * MEAN)
        matrix, shift = (self.backend.asarray(a, dtype=x_t.dtype) for a in (gain.T, offset))
        x_0 = x_t @ matrix + shift
        return Prediction(x_0, (x_t - sqrt(alpha_bar) * x_0) / sqrt(1 - alpha_bar))

    def run(self, x: HostArray, steps: int | None, noise: HostNoise | None = None) -> Iterator[Step]:
        """Yield the steps from x on this backend, with noise of a fixed seed if `noise` is not given."""
        draw = noise or _noise(x)

        def on_device(t: int) -> Array:
            return self.backend.asarray(_frozen(draw(t)))

        start = self.backend.asarray(_frozen(x))
        return self.sampler(self.process, self.denoiser, start, trailing_pairs(T, steps), on_device)

    def final(self, x: HostArray, steps: int | None, noise: HostNoise | None = None) -> HostArray:
        """Return the samples, on the host."""
        *_, last = self.run(x, steps, noise)
        return self.backend.to_numpy(last.x)


def _start(n: int) -> HostArray:
    return np.random.default_rng(SEED).standard_normal((n, 2), dtype=np.float32)


def _noise(x: HostArray) -> HostNoise:
    def draw(t: int) -> HostArray:
        return np.asarray(np.random.default_rng((SEED, t + 1)).standard_normal(x.shape, dtype=np.float32))

    return draw


def _frozen(array: HostArray) -> HostArray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _check_steps(host: _Gaussian, steps: int) -> None:
    """Check the yielded steps: their times, x's shape and type, and that they are not written to later."""
    x = _start(5)
    seen = []
    try:
        for step in host.run(x, steps):
            assert isinstance(step, Step), f"{host.what} yields a {type(step).__name__}, not a Step"
            seen.append((step, step.x.copy(), step.x_0.copy()))
    except ValueError as cause:
        raise AssertionError(f"{host.what} fails with read-only inputs: ValueError: {cause}") from cause
    times = [t for t, _ in trailing_pairs(T, steps)]
    left = [step.t for step, _, _ in seen]
    assert left == times, f"{host.what}: its steps leave t = {left}, not {times}"
    for step, x_then, x_0_then in seen:
        for name, array, then in (("x", step.x, x_then), ("x_0", step.x_0, x_0_then)):
            where = f"{host.what}: {name} of the step from t = {step.t}, of {steps} steps,"
            assert array.shape == x.shape, f"{where} has shape {array.shape}, not {x.shape}"
            assert array.dtype == x.dtype, f"{where} is {array.dtype} for {x.dtype} samples"
            assert np.array_equal(array, then), f"{where} is written to after it was yielded"
            assert np.all(np.isfinite(array)), f"{where} is not finite"
    assert np.array_equal(seen[-1][1], host.final(x, steps)), f"{host.what}: the same inputs give different samples"


def _check_last_step(host: _Gaussian) -> None:
    """Check that the noise of the step to the data does not change the sample."""
    x, pairs = _start(5), trailing_pairs(T, 7)
    usual = _noise(x)
    other = host.final(x, 7, lambda t: usual(t) + (t == pairs[-1][0]))
    assert np.array_equal(other, host.final(x, 7)), f"{host.what} adds noise at the last step"


def _check_samples_apart(host: _Gaussian) -> None:
    """Check that a sample does not depend on its batch."""
    x = _start(5)
    noise = _noise(x)
    together = host.final(x, 7)
    alone = host.final(x[1:2], 7, lambda t: noise(t)[1:2])
    error = np.max(np.abs(alone - together[1:2]))
    assert error <= 1e-4, f"{host.what}: a sample drawn alone is off by {error:.1e} from the same in a batch"


def _check_stateless(host: _Gaussian) -> None:
    """Check that two runs that take turns give the same samples as one run on its own."""
    x = _start(5)
    turns = [(one.x, two.x) for one, two in zip(host.run(x, 7), host.run(x[::-1], 7), strict=True)]
    same = np.array_equal(turns[-1][0], host.final(x, 7)) and np.array_equal(turns[-1][1], host.final(x[::-1], 7))
    assert same, f"{host.what}: samples differ when two runs take turns: keep what a run remembers in its generator"


def _check_path(host: _Gaussian) -> None:
    """Check that x arrives at its mean, alpha · `POINT`, at every t_prev, where x_0 is `POINT` and the noise zero."""
    process, pairs = host.process, trailing_pairs(T, 100)

    def denoiser(x_t: Array, t: int) -> Prediction:
        now, x_0 = level(process, t), np.full_like(x_t, POINT)
        return Prediction(x_0, (x_t - now.alpha * x_0) / now.sigma)

    x = np.full((2, 3, 3, 2), level(process, T - 1).alpha * POINT, np.float32)
    steps = host.sampler(process, denoiser, _frozen(x), pairs, lambda t: _frozen(np.zeros_like(x)))
    for step, (t, t_prev) in zip(steps, pairs, strict=True):
        for name, array, mean in (("x", step.x, level(process, t_prev).alpha * POINT), ("x_0", step.x_0, POINT)):
            error = np.max(np.abs(array - mean))
            assert error <= OFF_THE_PATH, (
                f"{host.what}: where all data are {POINT}, and the noise zero, {name} of the step from t = {t} to "
                f"{t_prev} is off by {error:.2g} from {mean:.3g}"
            )


def _check_standard(host: _Gaussian) -> None:
    """Check that the sampler needs only the array API standard, if array-api-strict is installed."""
    try:
        import array_api_strict
    except ImportError:
        return
    strict = _Gaussian(Backend(array_api_strict), host.sampler, host.what)
    x = _start(5)
    try:
        sample = strict.final(x, 7)
    except (AttributeError, IndexError, TypeError, ValueError) as cause:
        raise AssertionError(f"{host.what} fails on array-api-strict: {type(cause).__name__}: {cause}") from cause
    error = np.max(np.abs(sample - host.final(x, 7)))
    assert error <= 1e-4, f"{host.what}: samples on array-api-strict are off by {error:.1e}"


def _check_time(host: _Gaussian, steps: int | None, tolerance: float) -> None:
    """Check the law of the samples against N(0, I), after whitening, along each direction.

    The bounds hold for every n, where δ is the probability of a false alarm of each: the mean is N(0, 1/n); n times the
    variance about 0 is χ²_n, within 2 √(n ln 1/δ) + 2 ln 1/δ of n (Laurent, Massart 2000, lemma 1); the empirical
    distribution function is within √(ln(2/δ) / 2n) (Dvoretzky, Kiefer, Wolfowitz 1956, with Massart's constant 1990).
    """
    x = host.final(_start(SAMPLES), steps).astype(np.float64)
    white = np.linalg.solve(FACTOR, (x - MEAN).T).T
    normal = NormalDist()
    n, delta = SAMPLES, FALSE_ALARM / (3 * 2 * len(DIRECTIONS))
    bounds = {
        "mean": normal.inv_cdf(1 - delta) / sqrt(n),
        "variance": 2 * sqrt(log(1 / delta) / n) + 2 * log(1 / delta) / n,
        "distribution function": sqrt(log(2 / delta) / (2 * n)),
    }
    for u in DIRECTIONS:
        z = np.sort(white @ u)
        cdf = np.asarray([normal.cdf(value) for value in z])
        steps_up = np.arange(n + 1) / n
        found = {
            "mean": abs(np.mean(z)),
            "variance": abs(np.mean(z**2) - 1),
            "distribution function": max(np.max(steps_up[1:] - cdf), np.max(cdf - steps_up[:-1])),
        }
        for name, error in found.items():
            assert error <= bounds[name] + tolerance, (
                f"{host.what}: whitened samples of a Gaussian are off by {error:.3g} in {name} along {u.round(2)}: "
                f"chance explains {bounds[name]:.3g}, and the tolerance is {tolerance:g}"
            )
