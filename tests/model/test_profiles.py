"""Power-function averages against numerical integration, and one made of others against the bound of its fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.errors import ConfigError
from tinyddpm.model.averages import LONGEST, exponent_of, fit, inner_product, lengths_of, name_of
from tinyddpm.model.config import Config

exponents = st.floats(0.0, 60.0)
times = st.floats(1.0, 1e6)


def length_of(exponent: float) -> float:
    """√(γ + 1) / ((γ + 2) √(γ + 3)), the relative length of exponent γ."""
    return float((exponent + 1) ** 0.5 / ((exponent + 2) * (exponent + 3) ** 0.5))


def profile(tau: np.ndarray, t: float, exponent: float) -> np.ndarray:
    """The density over time of an average after t steps, as EDM2 defines it."""
    return np.where(tau <= t, (exponent + 1) * (tau / t) ** exponent / t, 0.0)


def integral(values_at: Callable[[np.ndarray], np.ndarray], end: float, pieces: int = 4) -> float:
    """The integral from 0 to `end` by Gauss and Legendre's rule of 60 points in each piece.

    It is over u, with τ = u⁴ times the end: a power that is no whole number is smooth in u at 0.
    """
    nodes, weights = np.polynomial.legendre.leggauss(60)
    edges = np.linspace(0, 1, pieces + 1)
    half = np.diff(edges)[:, None] / 2
    u = edges[:-1, None] + half * (nodes + 1)
    return float(np.sum(half * weights * values_at(end * u**4) * 4 * end * u**3))


def after(steps: int, exponent: float) -> np.ndarray:
    """What each step's weights count after so many updates: weights that are one at their own step, zero at others."""
    counts = np.zeros(steps)
    for t in range(1, steps + 1):
        beta = (1 - 1 / t) ** (exponent + 1)
        counts *= beta
        counts[t - 1] += 1 - beta
    return counts


@given(exponent=exponents, t=times)
def test_the_length_is_the_profiles_standard_deviation(exponent: float, t: float) -> None:
    mean = integral(lambda tau: tau * profile(tau, t, exponent), t)
    variance = integral(lambda tau: (tau - mean) ** 2 * profile(tau, t, exponent), t)
    assert length_of(exponent) == pytest.approx(variance**0.5 / t, rel=1e-9)


@given(exponent=exponents)
def test_lengths_and_exponents_are_inverse(exponent: float) -> None:
    assert exponent_of(length_of(exponent)) == pytest.approx(exponent, rel=1e-7, abs=1e-7)


def test_known_lengths() -> None:
    """The mean of all is γ = 0; EDM2 keeps 0.05 and 0.10, which are γ = 16.97 and 6.94."""
    assert exponent_of(LONGEST) == pytest.approx(0, abs=1e-12)
    assert [round(exponent_of(length), 2) for length in (0.05, 0.10)] == [16.97, 6.94]


@given(exponent=exponents, steps=st.integers(1, 300))
def test_updates_have_the_profile_exactly(exponent: float, steps: int) -> None:
    """Each step's weights count the integral of the profile over that step; the start counts nothing."""
    k = np.arange(steps + 1)
    np.testing.assert_allclose(after(steps, exponent), np.diff((k / steps) ** (exponent + 1)), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("exponent", [0.5, 6.94, 16.97])
def test_many_updates_are_the_profile(exponent: float) -> None:
    """In units of the run, the counts come to the profile at the middle of each step, the faster the more steps."""
    apart = []
    for steps in (100, 1000):
        middles = (np.arange(steps) + 0.5) / steps
        apart.append(np.max(np.abs(steps * after(steps, exponent) - profile(middles, 1.0, exponent))[steps // 10 :]))
    assert apart[0] < 0.02 * (exponent + 1)
    assert apart[1] < apart[0] / 90


@given(t_a=times, exponent_a=exponents, t_b=times, exponent_b=exponents)
def test_inner_products(t_a: float, exponent_a: float, t_b: float, exponent_b: float) -> None:
    """Against numerical integration up to the shorter time, in units of the longer one: both orders."""
    longer, shorter = max(t_a, t_b), min(t_a, t_b)
    expected = longer * integral(lambda tau: profile(tau, t_a, exponent_a) * profile(tau, t_b, exponent_b), shorter)
    for found in (
        inner_product(t_a, exponent_a, t_b, exponent_b),
        inner_product(t_b, exponent_b, t_a, exponent_a),
    ):
        assert longer * found == pytest.approx(expected, rel=1e-8, abs=1e-12)


def kept(steps: int, snapshots: int, lengths: tuple[float, ...] = (0.05, 0.10)) -> tuple[np.ndarray, np.ndarray]:
    """The times and the exponents of averages of these lengths, at snapshots spread evenly over so many steps."""
    ends = np.arange(1, snapshots + 1) * steps / snapshots
    return np.repeat(ends, len(lengths)), np.tile([exponent_of(length) for length in lengths], snapshots)


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15])
def test_a_fit_is_that_of_least_squares(length: float) -> None:
    """Against profiles sampled at 40,000 times: no other shares that add up to 1 leave less, and this much is left."""
    t, exponent = 400.0, exponent_of(length)
    ends, gammas = kept(400, 6)
    tau = (np.arange(40_000) + 0.5) / 100
    columns = np.stack([profile(tau, *pair) for pair in zip(ends, gammas, strict=True)], axis=1)
    wanted = profile(tau, t, exponent)
    # The last share is 1 less the others, so that these are free.
    free = np.linalg.lstsq(columns[:, :-1] - columns[:, -1:], wanted - columns[:, -1], rcond=None)[0]
    left = columns @ np.append(free, 1 - free.sum()) - wanted
    found = fit(ends, gammas, t, exponent)
    assert found.shares.sum() == pytest.approx(1, abs=1e-9)
    assert found.error == pytest.approx((t * np.sum(left**2) / 100) ** 0.5, rel=1e-3)
    np.testing.assert_allclose(columns @ found.shares - wanted, left, atol=1e-3 * np.abs(left).max())


def test_what_is_there_is_found() -> None:
    """A length that is kept is its own last snapshot, as near as rounding lets it be seen."""
    ends, gammas = kept(1000, 20)
    found = fit(ends, gammas, 1000.0, exponent_of(0.10))
    assert found.error < 1e-6
    np.testing.assert_allclose(found.shares, np.eye(40)[-1], atol=1e-6)


def test_more_snapshots_leave_less() -> None:
    """Twice as many leave a fourth of the error, as they do where profiles are smooth."""
    errors = [fit(*kept(960, count), 960.0, exponent_of(0.07)).error for count in (12, 24, 48)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_neighbouring_snapshots_do_no_harm() -> None:
    """A run that was stopped has snapshots a step apart, whose averages are nearly the same: no share grows large."""
    ends, gammas = kept(800_000, 50)
    near = np.asarray([1.0, 2.0, 400_000.0]).repeat(2)
    more = fit(np.append(ends, 800_000 - near), np.append(gammas, gammas[:6]), 800_000.0, exponent_of(0.07))
    alone = fit(ends, gammas, 800_000.0, exponent_of(0.07))
    assert more.error <= alone.error
    assert np.abs(more.shares).sum() < 3


@pytest.mark.parametrize("length", [0.02, 0.07, 0.2])
@pytest.mark.parametrize("wander", ["noise", "walk", "worst"])
def test_an_average_made_of_others_is_within_its_bound(length: float, wander: str, rng: np.random.Generator) -> None:
    """Of weights that are noise, that wander, and that lie as badly as they can, far away from 0.

    The last come to nine tenths of the bound, so that it is no looser than it must be.
    """
    steps, exponent = 360, exponent_of(length)
    ends, gammas = kept(steps, 9)
    found = fit(ends, gammas, steps, exponent)
    counts = np.stack(
        [np.append(after(int(t), g), np.zeros(steps - int(t))) for t, g in zip(ends, gammas, strict=True)]
    )
    left = found.shares @ counts - after(steps, exponent)
    weights = {
        "noise": rng.normal(size=(steps, 5)),
        "walk": np.cumsum(rng.normal(size=(steps, 5)), axis=0),
        "worst": left[:, None] / np.abs(left).max(),
    }[wander] + 1000
    centred = weights - weights.mean(axis=0)
    bound = found.error * np.sqrt(np.mean(np.sum(centred**2, axis=1)))
    off = np.linalg.norm(left @ weights)
    assert off <= bound + 1e-9 * 1000
    if wander == "worst":
        assert off > 0.9 * bound


def test_lengths_are_read() -> None:
    assert lengths_of("") == lengths_of(" ") == ()
    assert lengths_of("0.05, 0.1,0.0125") == (0.05, 0.1, 0.0125)
    assert [*map(name_of, lengths_of("0.05, 0.1,0.0125"))] == ["0.050", "0.100", "0.0125"]


@pytest.mark.parametrize("text", ["a", "0", "-0.1", "0.29", "nan", "0.05,", "0.05;0.1", "0.05,0.050"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^options: training\.average_lengths '.*(give numbers|give each once)"):
        Config().updated({"training": {"average_lengths": text}}, "options")
