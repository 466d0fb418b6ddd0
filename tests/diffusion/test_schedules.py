"""Schedules against their papers' formulas, what the report says of them, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tinyddpm.diffusion.schedule_report import curves, report
from tinyddpm.diffusion.schedules import (
    check_betas,
    cosine,
    laplace,
    linear,
    make_betas,
    quadratic,
    sigmoid_alpha,
    zero_terminal_snr,
)
from tinyddpm.errors import ConfigError, RegistryError
from tinyddpm.testing import check_schedule

STEPS = st.integers(2, 2000)
ENDS = st.floats(1e-6, 0.05)

PLUGIN = """
import numpy as np

def constant(T, *, level=0.1):
    return np.full(T, level)

def one_short(T):
    return np.full(T - 1, 0.1)

def single(T):
    return np.full(T, 0.1, np.float32)
"""


def sqrt_alpha_bar_end(betas: np.ndarray) -> float:
    return math.sqrt(math.prod(1 - float(beta) for beta in betas))


@given(T=STEPS, beta_start=ENDS, beta_end=ENDS)
def test_linear_is_a_rescaled_line_and_is_refused_where_that_reaches_1(
    T: int, beta_start: float, beta_end: float
) -> None:
    """Over lengths and both ends, rising or falling: DDPM's line, rescaled as in IDDPM's code."""
    assume(abs(1000 * max(beta_start, beta_end) - T) > 1e-9)  # there rounding decides
    if 1000 * max(beta_start, beta_end) > T:
        with pytest.raises(ConfigError, match=f"T = {T} steps"):
            linear(T, beta_start=beta_start, beta_end=beta_end)
        return
    betas = linear(T, beta_start=beta_start, beta_end=beta_end)
    line = [beta_start * (1 - t / (T - 1)) + beta_end * (t / (T - 1)) for t in range(T)]
    np.testing.assert_allclose(betas, np.array(line) * 1000 / T, rtol=1e-12)
    check_betas(betas)
    np.testing.assert_allclose(linear(T, beta_start=beta_start, beta_end=beta_end, rescale=False), line, rtol=1e-12)


@pytest.mark.parametrize("schedule", [linear, quadratic])
def test_betas_are_float64_whatever_their_ends_are(schedule: Callable[..., Any]) -> None:
    check_betas(schedule(100, beta_start=np.float32(1e-4), beta_end=np.float32(0.02)))


@given(beta_end=st.floats(0.0021, 0.9))
def test_linear_names_the_shortest_chain_that_works(beta_end: float) -> None:
    """Over last betas: the T that the refusal names works, and the one below it does not."""
    with pytest.raises(ConfigError) as refusal:
        linear(2, beta_end=beta_end)
    shortest = int(str(refusal.value).split("T >= ")[1].split(",")[0])
    assume(abs(1000 * beta_end - round(1000 * beta_end)) > 1e-9)  # there rounding decides
    assert shortest == math.ceil(1000 * beta_end)
    check_betas(linear(shortest, beta_end=beta_end))
    if shortest > 2:
        with pytest.raises(ConfigError, match=f"T >= {shortest}"):
            linear(shortest - 1, beta_end=beta_end)


@given(T=STEPS, s=st.floats(0, 1), max_beta=st.floats(0.01, 0.9999))
def test_cosine_has_the_alpha_bar_of_iddpm(T: int, s: float, max_beta: float) -> None:
    """Over lengths and options: eq. 17 holds, alpha_bar = f(t)/f(0), up to the first beta that was clipped."""
    betas = cosine(T, s=s, max_beta=max_beta)
    check_betas(betas)
    assert betas.max() <= max_beta
    clipped = np.flatnonzero(betas == max_beta)
    assert clipped.size, "the last beta is 1 before it is clipped"
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(clipped[0] + 1)]
    alpha_bar = np.cumprod(1 - betas)[: clipped[0]]
    np.testing.assert_allclose(alpha_bar, np.array(f[1:]) / f[0], rtol=1e-10)


@given(T=st.integers(21, 2000))
def test_alpha_bar_falls_strictly_and_ends_near_zero(T: int) -> None:
    """Over lengths that both schedules take: less is left at every step, and less than 1% at the last."""
    for betas in (linear(T), cosine(T)):
        alpha_bar = np.cumprod(1 - betas)
        assert (np.diff(alpha_bar, prepend=1.0) < 0).all()
        assert sqrt_alpha_bar_end(betas) < 0.01


def test_linear_is_ddpms_at_1000_steps() -> None:
    """The constants of DDPM, section 4, and what they leave of the image at three lengths."""
    betas = linear(1000)
    assert (betas[0], betas[-1]) == (1e-4, 0.02)
    np.testing.assert_array_equal(betas, linear(1000, rescale=False))
    assert round(sqrt_alpha_bar_end(betas), 4) == 0.0064
    assert round(sqrt_alpha_bar_end(linear(300, rescale=False)), 2) == 0.22
    assert round(sqrt_alpha_bar_end(linear(100, rescale=False)), 2) == 0.60


def test_cosine_clips_its_last_beta_alone() -> None:
    """IDDPM's T = 4000: one beta at 0.999, the one whose f is zero."""
    betas = cosine(4000)
    assert betas[-1] == 0.999
    assert betas[:-1].max() < 0.9


@pytest.mark.parametrize("name", ["linear", "cosine", "quadratic", "sigmoid-alpha", "laplace"])
def test_built_in_schedules_keep_the_contract(name: str) -> None:
    check_schedule(name)


@given(T=st.integers(51, 2000), beta_start=ENDS, beta_end=ENDS)
def test_quadratic_has_evenly_spaced_roots(T: int, beta_start: float, beta_end: float) -> None:
    """Over lengths and ends: √beta is a line between those of the ends, rescaled by 1000/T as the linear schedule."""
    betas = quadratic(T, beta_start=beta_start, beta_end=beta_end)
    roots = [beta_start**0.5 * (1 - t / (T - 1)) + beta_end**0.5 * (t / (T - 1)) for t in range(T)]
    np.testing.assert_allclose(betas, np.array(roots) ** 2 * 1000 / T, rtol=1e-9)
    np.testing.assert_allclose(betas, quadratic(T, beta_start=beta_start, beta_end=beta_end, rescale=False) * 1000 / T)


def test_latent_diffusions_ends_leave_some_of_the_image() -> None:
    """0.00085 and 0.012 at T = 1000 end at sqrt(alpha_bar_T) = 0.068, as the paper on zero terminal SNR has it."""
    betas = quadratic(1000, beta_start=0.00085, beta_end=0.012)
    assert round(sqrt_alpha_bar_end(betas), 6) == 0.068265
    assert sqrt_alpha_bar_end(quadratic(1000)) == pytest.approx(sqrt_alpha_bar_end(linear(1000)), rel=0.1)


@pytest.mark.parametrize("options", [{}, {"start": 0, "tau": 0.7}, {"end": 2, "tau": 1.1}])
def test_sigmoid_is_the_papers_gamma(options: dict[str, float]) -> None:
    """At every t but the clipped last one, against the paper's pseudo-code in plain Python."""

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    def gamma(t: float) -> float:
        v_start, v_end = sigma(start / tau), sigma(end / tau)
        return (-sigma((t * (end - start) + start) / tau) + v_end) / (v_end - v_start)

    start, end, tau = ({"start": -3.0, "end": 3.0, "tau": 1.0} | options).values()
    betas = sigmoid_alpha(40, **options)
    assert betas[-1] == 0.999
    np.testing.assert_allclose(np.cumprod(1 - betas)[:-1], [gamma(t / 40) for t in range(1, 40)], rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"b": 0.5}, {"mu": -0.7, "b": 2.0}])
def test_laplace_has_the_papers_quantiles(options: dict[str, float]) -> None:
    """log SNR at t/T is the formula's of arXiv 2407.03297, table 1, at every t but the clipped last one."""
    T, mu, b = 40, options.get("mu", 0.0), options.get("b", 1.0)
    alpha_bar = np.cumprod(1 - laplace(T, **options))[:-1]
    times = np.arange(1, T) / T
    expected = mu - b * np.sign(0.5 - times) * np.log(1 - 2 * np.abs(times - 0.5))
    np.testing.assert_allclose(np.log(alpha_bar / (1 - alpha_bar)), expected, atol=1e-9)


@given(betas=st.lists(st.floats(1e-4, 0.99), min_size=2, max_size=50).map(np.array))
def test_zero_terminal_snr_is_its_algorithm(betas: np.ndarray) -> None:
    """Over any betas: √alpha_bar is an affine function of what it was, its first value kept, its last 0, beta_T = 1."""
    rescaled = zero_terminal_snr(betas)
    check_betas(rescaled, terminal=True)
    before, after = np.sqrt(np.cumprod(1 - betas)), np.sqrt(np.cumprod(1 - rescaled))
    assert after[0] == pytest.approx(before[0], rel=1e-12)
    assert (after[-1], rescaled[-1]) == (0, 1)
    slope = before[0] / (before[0] - before[-1])
    np.testing.assert_allclose(after, (before - before[-1]) * slope, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine", "quadratic", "sigmoid-alpha", "laplace"])
def test_every_schedule_can_end_without_signal(name: str) -> None:
    """Its report says so: no warning of an image that is left, log SNR minus infinity, and None in JSON."""
    with np.errstate(divide="raise", invalid="raise"):
        found = report(name, zero_terminal_snr(make_betas(name, 1000)))
    assert (found.sqrt_alpha_bar_T, found.snr_min, found.log_snr_min) == (0, 0, -math.inf)
    assert not [warning for warning in found.warnings if "still shows" in warning]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["log_snr_min"] is None


@given(betas=st.lists(st.floats(1e-6, 0.99), min_size=2, max_size=50).map(np.array))
def test_report_and_curves_agree_with_alpha_bar(betas: np.ndarray) -> None:
    """Over any betas: the numbers of the report and the curves follow from alpha_bar, multiplied up."""
    alpha_bar = np.cumprod(1 - betas)
    curve = curves(betas)
    np.testing.assert_allclose(curve["sqrt(alpha_bar)"], np.sqrt(alpha_bar), rtol=1e-9)
    np.testing.assert_allclose(curve["sqrt(1 - alpha_bar)"], np.sqrt(1 - alpha_bar), rtol=1e-9)
    np.testing.assert_allclose(np.exp(curve["log SNR"]), alpha_bar / (1 - alpha_bar), rtol=1e-9)
    assert curve["beta"] is betas
    found = report("any", betas)
    assert (found.T, found.beta_min, found.beta_max) == (len(betas), betas.min(), betas.max())
    assert found.sqrt_alpha_bar_T == pytest.approx(sqrt_alpha_bar_end(betas), rel=1e-9)
    assert found.snr_max == pytest.approx(alpha_bar[0] / (1 - alpha_bar[0]), rel=1e-9)
    assert found.snr_min == pytest.approx(alpha_bar[-1] / (1 - alpha_bar[-1]), rel=1e-9)
    assert found.log_snr_max == pytest.approx(math.log(found.snr_max))
    assert found.log_snr_min == pytest.approx(math.log(found.snr_min))


@pytest.mark.parametrize(
    ("betas", "traps"),
    [
        (linear(1000), []),
        (linear(50), []),
        (cosine(1000), []),
        (cosine(4000), []),
        (np.full(1000, 0.01), []),
        (linear(300, rescale=False), ["sqrt(alpha_bar_T) is 0.22"]),
        (linear(100, rescale=False), ["sqrt(alpha_bar_T) is 0.6 "]),
        (cosine(10), ["it adds noise of standard deviation 0.17 (alpha_bar_1 is 0.972 and should be above 0.99)"]),
        (np.append(linear(1000), [0.999, 0.9995]), ["2 betas are at or above 0.999, the first at index 1000"]),
        (linear(1000)[::-1].copy(), ["the first step already hides detail", "the betas fall at index 1,"]),
        (np.append(linear(1000), [0.03, 0.015]), ["the betas fall at index 1001, from 0.03 to 0.015:"]),
    ],
)
def test_report_warns_of_the_traps_and_of_nothing_else(betas: np.ndarray, traps: list[str]) -> None:
    found = report("some schedule", betas)
    assert len(found.warnings) == len(traps), found.warnings
    for trap, warning in zip(traps, found.warnings, strict=True):
        assert trap in warning
    assert str(found).splitlines()[5:] == [f"  warning: {warning}" for warning in found.warnings]


def test_report_counts_the_betas_at_the_limit() -> None:
    assert report("cosine", cosine(100)).betas_at_limit == 1
    assert report("linear", linear(100)).betas_at_limit == 0


def test_log_snr_survives_where_alpha_bar_underflows() -> None:
    """0.001 ** 200 is 0 in float64; its logarithm is -1381.55."""
    assert report("abrupt", np.full(200, 0.999)).log_snr_min == pytest.approx(200 * math.log(0.001))


def test_report_goes_through_json() -> None:
    found = report("cosine", cosine(10))
    fields = json.loads(json.dumps(found.to_dict()))
    assert fields["name"] == "cosine"
    assert fields["T"] == 10
    assert fields["sqrt_alpha_bar_T"] == found.sqrt_alpha_bar_T
    assert fields["warnings"] == found.warnings


def test_make_betas_calls_the_registered_schedule() -> None:
    assert len(make_betas("linear", 1_000_000)) == 1_000_000
    np.testing.assert_array_equal(make_betas("linear", 100, beta_end=0.03), linear(100, beta_end=0.03))
    np.testing.assert_array_equal(make_betas("cosine", 7, s=0.1), cosine(7, s=0.1))


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: make_betas("linear", 1), r"T = 1: .* use T = 1000"),
        (lambda: make_betas("linear", -5), "T = -5: "),
        (lambda: make_betas("linear", 1_000_001), "T = 1000001: .* at most 1,000,000"),
        (lambda: make_betas("linear", 10.0), "T is 10.0: give .* whole number"),  # type: ignore[arg-type]
        (lambda: make_betas("linear", True), "T is True: "),
        (lambda: make_betas("linear", 20), "^a linear schedule of T = 20 steps .* use T >= 21"),
        (lambda: make_betas("linear", 100, beta_nd=0.1), "'beta_nd': did you mean 'beta_end'.*beta_start, rescale"),
        (lambda: make_betas("cosine", 100, T=5), "'T': .*there are: max_beta, s"),
        (lambda: make_betas("cosine", 100, name="x"), "'name': "),
        (lambda: make_betas("linear", 100, beta_end=2), "^beta_end is 2: give a number between 0 and 1"),
        (lambda: make_betas("linear", 100, beta_start=0.0), "^beta_start is 0.0: "),
        (
            lambda: make_betas("linear", 100, beta_start="0.1"),
            "beta_start of schedule 'linear' is '0.1': give a number",
        ),
        (lambda: make_betas("linear", 100, beta_end=math.nan), "beta_end is nan: "),
        (lambda: make_betas("linear", 100, rescale=1), "option rescale of schedule 'linear' is 1: give true or false"),
        (lambda: make_betas("cosine", 100, s=-0.1), "s is -0.1: give a number from 0 to 1"),
        (lambda: linear(100, beta_start="0.1"), "^beta_start is '0.1': give a number"),  # type: ignore[arg-type]
        (lambda: cosine(100, s="0.1"), "^s is '0.1': give a number"),  # type: ignore[arg-type]
        (lambda: make_betas("cosine", 100, s=1.5), "s is 1.5: give a number from 0 to 1"),
        (lambda: make_betas("cosine", 100, s=True), "option s of schedule 'cosine' is True: give a number"),
        (lambda: make_betas("cosine", 100, max_beta=1.0), "^max_beta is 1.0: "),
        (lambda: make_betas("flow", 100, max_beta=0.0), "^max_beta is 0.0: "),
        (lambda: make_betas("sigmoid-alpha", 100, max_beta=2.0), "^max_beta is 2.0: "),
        (lambda: make_betas("quadratic", 20), "^a quadratic schedule of T = 20 steps .* use T >= 29"),
        (lambda: make_betas("quadratic", 100, beta_end=2), "^beta_end is 2: "),
        (lambda: make_betas("quadratic", 100, beta_start=1.0), "^beta_start is 1.0: "),
        (lambda: make_betas("sigmoid-alpha", 100, start=3.0), r"start is 3\.0 and end 3\.0"),
        (lambda: make_betas("sigmoid-alpha", 100, tau=0.0), r"tau is 0\.0"),
        (lambda: make_betas("laplace", 100, b=0.0), r"b is 0\.0: give a scale"),
        (lambda: make_betas("laplace", 100, max_beta=1.0), "^max_beta is 1.0: "),
        (lambda: check_betas(np.array([0.1, 1.0, 0.1]), terminal=True), "beta at index 1 .* is 1.0"),
        (lambda: check_betas([0.1, 0.2]), r"^betas: betas must be a NumPy float64 array of shape \(T,\), not list"),
        (lambda: check_betas(np.full(5, 0.1, np.float32)), r"not float32 \(5,\)"),
        (lambda: check_betas(np.full((5, 1), 0.1)), r"not float64 \(5, 1\)"),
        (lambda: check_betas(np.array([0.1])), "1 betas are too few"),
        (lambda: check_betas(np.array([0.1, 0.0, 3.0]), "mine"), r"mine: beta at index 1 \(of 0 to 2\) is 0.0"),
        (lambda: check_betas(np.array([0.1, 0.2, 1.0])), "beta at index 2 .* is 1.0"),
        (lambda: report("mine", np.array([0.1, 2.0])), "^mine: beta at index 1 "),
        (lambda: check_betas(np.array([math.nan, 2.0])), "beta at index 0 .* is nan"),
    ],
)
def test_bad_settings_are_refused_in_one_line(call: Callable[[], Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_unknown_schedule_names_the_closest() -> None:
    with pytest.raises(RegistryError, match="did you mean 'cosine'"):
        make_betas("cosin", 100)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with schedules of its own, good and bad."""
    (tmp_path / "schedules_under_test.py").write_text(PLUGIN)
    info = tmp_path / "schedules_under_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: schedules-under-test\nVersion: 1.0\n")
    names = ("constant", "one_short", "single")
    points = "\n".join(f"test-{name} = schedules_under_test:{name}" for name in names)
    (info / "entry_points.txt").write_text(f"[tinyddpm.schedules]\n{points}\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("plugin")
def test_plugin_schedules_are_used_and_checked() -> None:
    np.testing.assert_array_equal(make_betas("test-constant", 9, level=0.25), np.full(9, 0.25))
    with pytest.raises(ConfigError, match=r"schedule 'test-constant': beta at index 0 .* is 1.5"):
        make_betas("test-constant", 9, level=1.5)
    with pytest.raises(ConfigError, match="'test-one_short' returned 8 betas for T = 9"):
        make_betas("test-one_short", 9)
    with pytest.raises(ConfigError, match=r"'test-single': .* not float32"):
        make_betas("test-single", 9)
