"""The variational bound on −log p(x_0) of given samples, estimated with a denoiser from the terms of `likelihood`.

    L = L_T + Σ_{t=1}^{T−1} L_t + L_0

One draw of the noise for each sample and time gives an unbiased estimate of each L_t, and so of their sum. The sum may
be estimated from some of the times: they are cut into strata, and two times drawn from a stratum represent all of it.
Two is the least number that also gives a standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Array, Purpose, Random
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.likelihood import Decoder, bound_term, prior_term
from tinyddpm.diffusion.process import GaussianProcess, Variance
from tinyddpm.errors import ConfigError
from tinyddpm.ops import Operations

Floats: TypeAlias = NDArray[np.float64]
Noise: TypeAlias = Callable[[int, int], Array]
"""Standard normal noise for a time and the number of the draw, of x_0's shape."""


class Times(NamedTuple):
    """The times at which a bound is estimated, ascending from 0, and the number of times each represents, (K,)."""

    t: NDArray[np.int64]
    weight: Floats


def all_times(T: int) -> Times:
    """Return all times of a chain, each with weight 1."""
    return Times(np.arange(T), np.ones(T))


def some_times(T: int, count: int, random: Random) -> Times:
    """Return time 0 and `count` distinct times of 1 … T − 1, two from each of count / 2 strata.

    L_t is largest where there is little noise, so the strata grow with t: their ends are proportional to the squares of
    their numbers, but each has at least two times.

    Args:
        T: the length of the chain.
        count: even, from 2 to T − 1.
        random: draws them, on the host.

    Raises:
        ConfigError: `count` is odd or out of range.
    """
    if count % 2 or not 2 <= count < T:
        raise ConfigError(
            f"cannot estimate the bound at {count} of the times 1 to {T - 1}: give an even number from 2 to "
            f"{T - 1}, two for each stratum, or leave it out for all"
        )
    strata = count // 2
    h = np.arange(strata + 1)
    ends = np.maximum(2 * h, np.rint((T - 1) * (h / strata) ** 2).astype(np.int64))
    t, weight = [0], [1.0]
    for number, (begin, size) in enumerate(zip(1 + ends[:-1], np.diff(ends), strict=True)):
        first = int(random.integers(Purpose.BOUND_TIME, number, [0], (1,), int(size))[0, 0])
        second = int(random.integers(Purpose.BOUND_TIME, number, [1], (1,), int(size) - 1)[0, 0])
        second += second >= first
        t += sorted((int(begin) + first, int(begin) + second))
        weight += [size / 2, size / 2]
    return Times(np.asarray(t), np.asarray(weight))


class Estimate(NamedTuple):
    """A mean over samples with its standard errors.

    Attributes:
        mean: the estimate.
        se_samples: standard error over samples, the noise within each included; None for one sample.
        se_noise: the part of it that comes from the noise, which more draws would reduce; None for one draw.
        se_times: standard error from the times left out; None if none was.
    """

    mean: float
    se_samples: float | None
    se_noise: float | None = None
    se_times: float | None = None

    @property
    def se(self) -> float | None:
        """The standard error from samples and times together; None for one sample."""
        return None if self.se_samples is None else hypot(self.se_samples, self.se_times or 0.0)


def estimate(values: Floats) -> Estimate:
    """Return the mean of values, (n, draws), one for each sample and draw, with its standard errors."""
    n, draws = values.shape
    return Estimate(
        float(values.mean()),
        float(values.mean(axis=1).std(ddof=1)) / n**0.5 if n > 1 else None,
        float(values.var(axis=1, ddof=1).mean() / (draws * n)) ** 0.5 if draws > 1 else None,
    )


@dataclass(frozen=True)
class Bound:
    """The bound of n samples, all terms in bits per dimension.

    Attributes:
        times: the K times at which it was estimated.
        prior: (n,) L_T.
        terms: (n, draws, K) L_t.
        mse_x_0: (n, K) the mean squared error of the predicted x_0, over a sample's elements and the draws.
        mse_eps: (n, K) that of the predicted eps.
    """

    times: Times
    prior: Floats
    terms: Floats
    mse_x_0: Floats
    mse_eps: Floats

    def parts(self) -> dict[str, Estimate]:
        """Return the estimates of "L_T", of "L_t", the sum over all t ≥ 1, of "L_0", and of their "total"."""
        last, first = self.prior[:, None], self.terms[:, :, 0]
        between = self.terms[:, :, 1:] @ self.times.weight[1:]
        se_times = self._se_times()
        return {
            "L_T": estimate(last),
            "L_t": estimate(between)._replace(se_times=se_times),
            "L_0": estimate(first),
            "total": estimate(last + between + first)._replace(se_times=se_times),
        }

    def steps(self) -> dict[str, list[Any]]:
        """Return lists by name, each (K,), with one value for each time from t = 0 on.

        - t, and weight, the number of times it represents;
        - bits: L_t;  se: its standard error over samples;
        - mse_x_0, mse_eps;
        - rate: bits per dimension to send x_t, L_T + Σ_{s>t} L_s, when x is sent step by step from noise to data;
        - rmse_x_0: the root of mse_x_0, the distortion of the x_0 that a receiver of x_t predicts.

        Rate and distortion are those of DDPM's progressive coding (section 4.3, figure 5).
        """
        found = [estimate(self.terms[:, :, k]) for k in range(len(self.times.t))]
        bits = np.asarray([each.mean for each in found])
        weighted = bits * self.times.weight
        mse_x_0 = self.mse_x_0.mean(axis=0)
        return {
            "t": self.times.t.tolist(),
            "weight": self.times.weight.tolist(),
            "bits": bits.tolist(),
            "se": [each.se_samples for each in found],
            "mse_x_0": mse_x_0.tolist(),
            "mse_eps": self.mse_eps.mean(axis=0).tolist(),
            "rate": (self.prior.mean() + weighted[::-1].cumsum()[::-1] - weighted).tolist(),
            "rmse_x_0": (mse_x_0**0.5).tolist(),
        }

    def _se_times(self) -> float | None:
        """Return Neyman's standard error of the sum over strata: the root of Σ N² (1 − 2/N) s²/2, s² = d²/2.

        A stratum has N times, two of them drawn, whose means over samples differ by d. The noise in these means is
        included.
        """
        if np.all(self.times.weight == 1):
            return None
        pairs = self.terms.mean(axis=(0, 1))[1:].reshape(-1, 2)
        w = self.times.weight[1::2]  # N = 2 w
        return float(np.sum(w * (w - 1) * (pairs[:, 0] - pairs[:, 1]) ** 2) ** 0.5)


def variational_bound(
    ops: Operations,
    process: GaussianProcess,
    decoder: Decoder,
    denoiser: Denoiser,
    x_0: Array,
    times: Times,
    noise: Noise,
    draws: int = 1,
    variance: Variance | None = None,
    watch: Callable[[], None] = lambda: None,
) -> Bound:
    """Return the bound of each sample of a batch.

    Args:
        ops: operations of the backend.
        process: the chain.
        decoder: the form of L_0, see `bound_term`.
        denoiser: gives the mean of p, and its variance if it has learned one.
        x_0: (n, ...) data.
        times: the times at which it is estimated.
        noise: draws the eps of x_t.
        draws: number of draws for each time.
        variance: a fixed variance of p; None for the learned one, or "large" if none was learned.
        watch: called after each evaluation of the denoiser, for progress.
    """
    xp = ops.xp
    terms, mse_x_0, mse_eps = [], [], []
    for t in times.t.tolist():
        steps = ops.backend.asarray([t] * x_0.shape[0], dtype=xp.int64)
        for draw in range(draws):
            eps = noise(t, draw)
            x_t = process.q_sample(x_0, t, eps)
            prediction = denoiser(x_t, t)
            fraction = prediction.fraction if variance is None else None
            log_variance = process.p_log_variance(x_t, t, (variance or "large") if fraction is None else fraction)
            mean, _ = process.q_posterior(prediction.x_0, x_t, t)
            terms.append(bound_term(ops, process, decoder, x_0, x_t, steps, mean, log_variance)[0])
            mse_x_0.append(ops.mse(prediction.x_0, x_0)[0])
            mse_eps.append(ops.mse(prediction.eps, eps)[0])
            watch()

    def on_host(values: Sequence[Array]) -> Floats:
        stacked = ops.backend.to_numpy(xp.stack(values, axis=-1)).astype(np.float64)
        return stacked.reshape(len(stacked), len(times.t), draws).swapaxes(1, 2)

    return Bound(
        times,
        ops.backend.to_numpy(prior_term(ops, process, x_0)).astype(np.float64),
        on_host(terms),
        on_host(mse_x_0).mean(axis=1),
        on_host(mse_eps).mean(axis=1),
    )


def together(bounds: Sequence[Bound]) -> Bound:
    """Return the bounds of several batches, estimated at the same times, as one of all samples."""
    first, *_ = bounds
    arrays = ("prior", "terms", "mse_x_0", "mse_eps")
    return Bound(first.times, **{name: np.concatenate([getattr(each, name) for each in bounds]) for name in arrays})
