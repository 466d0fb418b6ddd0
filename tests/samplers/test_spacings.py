"""Spacings visit distinct times of the chain, from noise to data, where they say."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm import registry
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.errors import ConfigError
from tinyddpm.samplers import make_pairs, trailing_pairs
from tinyddpm.samplers.spacings import karras, moments

NAMES = ["uniform", "trailing", "quadratic", "karras"]
LINEAR = np.cumprod(1 - make_betas("linear", 1000))


@st.composite
def tables(draw: st.DrawFn) -> np.ndarray:
    """alpha_bar of chains of 1 to 300 steps, whose betas are anything from 1e-6 to 0.9."""
    exponents = draw(st.lists(st.floats(-6, -0.05), min_size=1, max_size=300))
    return np.cumprod(1 - 10.0 ** np.asarray(exponents))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@given(alpha_bar=tables(), data=st.data())
def test_times_fall_from_noise_to_data(name: str, alpha_bar: np.ndarray, data: st.DataObject) -> None:
    """Over all chains and numbers of steps: pairs join up from T − 1 to −1, strictly falling, as many as asked for."""
    T = len(alpha_bar)
    steps = data.draw(st.integers(1, T))
    pairs = make_pairs(name, alpha_bar, steps)
    assert len(pairs) == steps
    assert pairs[0][0] == T - 1
    assert pairs[-1][1] == -1
    assert all(t > t_prev for t, t_prev in pairs)
    assert all(a[1] == b[0] for a, b in pairwise(pairs))
    assert all(isinstance(t, int) for pair in pairs for t in pair)


@pytest.mark.parametrize("name", NAMES)
def test_all_steps_by_default(name: str) -> None:
    assert make_pairs(name, LINEAR) == [(t, t - 1) for t in range(999, -1, -1)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 1001, -3])
def test_impossible_numbers_of_steps_are_refused(name: str, steps: int) -> None:
    with pytest.raises(ConfigError, match=f"{steps} sampling steps on a chain of 1000: give between 1 and 1000"):
        make_pairs(name, LINEAR, steps)


@pytest.mark.parametrize("steps", [2, 4, 28, 112])
def test_uniform_includes_both_ends(steps: int) -> None:
    """IDDPM, section 4: K evenly spaced numbers from 1 to T, both included, by a count that begins at 1."""
    times = [t + 1 for t, _ in make_pairs("uniform", LINEAR, steps)]
    assert times == [round(1000 - 999 * i / (steps - 1)) for i in range(steps)]


def test_trailing_is_the_papers() -> None:
    """Lin et al. 2023, section 3.3, T = 1000 and 10 steps: 1000, 900, …, 100 by their count, which begins at 1."""
    assert [t + 1 for t, _ in make_pairs("trailing", LINEAR, 10)] == list(range(1000, 0, -100))
    assert make_pairs("trailing", LINEAR, 37) == trailing_pairs(1000, 37)


def test_quadratic_times_are_squares() -> None:
    """τ_i = c i² with τ_10 = 1000, by DDIM's count, which begins at 1."""
    assert [t + 1 for t, _ in make_pairs("quadratic", LINEAR, 10)] == [10 * i**2 for i in range(10, 0, -1)]


@pytest.mark.parametrize("steps", [2, 5, 10, 18, 40])
def test_karras_levels_are_nearest_to_edms(steps: int) -> None:
    """Eq. 5 for each i, as it stands in the paper, against every level of the chain; where no two share a time."""
    levels = np.sqrt((1 - LINEAR) / LINEAR)
    low, high, rho = levels[0], 80, 7
    nearest = [999]
    for i in range(1, steps):
        sigma = (high ** (1 / rho) + i / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        nearest.append(int(np.argmin(np.abs(levels - sigma))))
    assert len(set(nearest)) == steps, "choose fewer steps: two of them share a level"
    assert [t for t, _ in make_pairs("karras", LINEAR, steps)] == nearest


def test_karras_with_rho_1_is_even_in_the_noise_level() -> None:
    levels = (1 / LINEAR - 1) ** 0.5
    gaps = np.diff(np.interp(karras(LINEAR, 20, rho=1.0, sigma_max=1000.0), np.arange(1000), levels))
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-9)


def test_karras_stays_below_a_sigma_max_under_1() -> None:
    """All times but the first have levels up to it, the second the nearest."""
    levels = (1 / LINEAR - 1) ** 0.5
    (first, _), (second, _), *_ = pairs = make_pairs("karras", LINEAR, 10, sigma_max=0.25)
    whole = [t for t, _ in make_pairs("karras", LINEAR, 10)]
    assert first == 999
    assert levels[second] < 0.25
    assert all(t <= before for (t, _), before in zip(pairs, whole, strict=True))


@pytest.mark.parametrize("option", ["rho", "sigma_max"])
@pytest.mark.parametrize("value", [-0.5, 0.0, float("nan")])
def test_bad_options_are_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{option} is {value}: give "):
        make_pairs("karras", LINEAR, 10, **{option: value})


@pytest.mark.parametrize(
    "times",
    [
        [999.0, 5.0],
        [0.0, 0.0, 0.0],
        [998.0, 5.0, 1.0],
        [1000.0, 5.0, 1.0],
        [999.0, 5.0, 6.0],
        [999.0, 5.0, -1.0],
        [999.0, float("nan"), 1.0],
    ],
    ids=["too few", "starts late", "starts a step late", "starts early", "rises", "visits the data", "not a number"],
)
def test_a_spacing_that_returns_something_else_is_named(times: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "build", lambda *arguments: np.asarray(times))
    with pytest.raises(ConfigError, match="spacing 'made-up': it must return 3 times that fall from 999"):
        make_pairs("made-up", LINEAR, 3)


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (5, 1, [4]),
        (1, 1, [0]),
        (1, 3, [0]),
        (5, 2, [0, 4]),
        (5, 3, [0, 2, 4]),
        (11, 5, [0, 2, 5, 8, 10]),
        (3, 3, [0, 1, 2]),
        (3, 20, [0, 1, 2]),
    ],
)
def test_moments_are_spread_from_the_first_to_the_last(total: int, count: int, expected: list[int]) -> None:
    assert moments(total, count) == expected


@pytest.mark.parametrize(("total", "count"), [(0, 1), (1, 0), (-1, 3)])
def test_no_moments_are_refused(total: int, count: int) -> None:
    with pytest.raises(ConfigError, match=f"cannot choose {count} of {total} moments: both must be at least 1"):
        moments(total, count)
