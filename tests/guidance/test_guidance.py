"""What guidances say, sample by sample and level by level."""

from __future__ import annotations

from math import inf
from typing import Any

import array_api_strict
import numpy as np
import pytest

from helpers.affine import LINEAR
from helpers.gaussians import Floats
from tinyddpm import guidance, registry
from tinyddpm.backend import Backend
from tinyddpm.diffusion.denoiser import Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.errors import ConfigError
from tinyddpm.guidance import Lone, auto, cfg, make_guidance

RNG = np.random.default_rng(4)
X = RNG.standard_normal((3, 4, 5, 2))


class Saying(Lone):
    """Predicts the same x_0 of whatever it is asked, and counts."""

    def __init__(self, x_0: Floats, fraction: Floats | None = None, process: GaussianProcess = LINEAR) -> None:
        super().__init__(process, self._say)
        self.x_0, self.fraction, self.asked = x_0, fraction, 0

    def _say(self, x_t: Floats, t: int) -> Prediction:
        self.asked += 1
        return Prediction(self.x_0, self.process.predict_eps(x_t, t, self.x_0), self.fraction)


def sides() -> tuple[Saying, Saying]:
    return Saying(RNG.standard_normal(X.shape), np.full_like(X, 0.2)), Saying(RNG.standard_normal(X.shape) / 2, None)


def test_the_default_leads_on_as_far_as_the_two_are_apart() -> None:
    """Scale 2, and no rescaling, at every level: twice the conditional's prediction minus the other's."""
    c, u = sides()
    for t in (0, 300, 999):
        for guided in (cfg(c, u), auto(c, None, weak=u)):
            np.testing.assert_allclose(guided(X, t).x_0, 2 * c.x_0 - u.x_0, rtol=1e-12)


def test_rescaling_gives_each_sample_the_conditionals_deviation() -> None:
    """Lin et al., eqs. 15 and 16: φ = 1 whole, φ = 0.7 that share of the way; eps follows."""
    c, u = sides()
    plain = cfg(c, u, scale=5.0)(X, 300).x_0
    ratio = c.x_0.std(axis=(1, 2, 3), keepdims=True) / plain.std(axis=(1, 2, 3), keepdims=True)
    for phi in (0.7, 1.0):
        x_0, eps = cfg(c, u, scale=5.0, rescale=phi)(X, 300)
        np.testing.assert_allclose(x_0, phi * ratio * plain + (1 - phi) * plain, rtol=1e-12)
        np.testing.assert_allclose(LINEAR.q_sample(x_0, 300, eps), X, rtol=1e-9, atol=1e-12)
    whole = cfg(c, u, scale=5.0, rescale=1.0)(X, 300).x_0
    np.testing.assert_allclose(whole.std(axis=(1, 2, 3)), c.x_0.std(axis=(1, 2, 3)), rtol=1e-12)


def test_rescaling_what_does_not_vary_stays_finite() -> None:
    c, u = Saying(np.zeros_like(X)), Saying(np.ones_like(X))
    assert np.isfinite(cfg(c, u, scale=2.0, rescale=0.7)(X, 10).eps).all()


def test_rescaling_leaves_samples_without_deviation() -> None:
    """A point of one coordinate, and a picture of one grey, have none, guided or not: the guided x_0 stays."""
    for x in (RNG.standard_normal((3, 1)).astype(np.float32), X.astype(np.float32)):
        c, u = Saying(np.full_like(x, 0.3)), Saying(np.full_like(x, 0.1))
        np.testing.assert_allclose(cfg(c, u, scale=2.0, rescale=0.7)(x, 10).x_0, 0.5, rtol=1e-6)


@pytest.mark.parametrize("name", ["cfg", "auto"])
def test_outside_the_interval_the_conditional_is_asked_alone(name: str) -> None:
    """Its bits, and half the cost; at `high` itself it is guided, at `low` itself not."""
    noise = (1 / LINEAR.alpha_bar - 1) ** 0.5
    c, u = sides()
    made = {"cfg": lambda **options: cfg(c, u, **options), "auto": lambda **options: auto(c, None, weak=u, **options)}
    guided = made[name](scale=3.0, low=float(noise[200]), high=float(noise[600]))
    for t, inside in {0: False, 199: False, 200: False, 201: True, 599: True, 600: True, 601: False}.items():
        u.asked = 0
        found, alone = guided(X, t), c(X, t)
        assert np.array_equal(found.x_0, alone.x_0) != inside
        assert np.array_equal(found.eps, alone.eps) != inside
        assert u.asked == int(inside)


def test_without_signal_the_noise_level_is_infinite() -> None:
    """At the end of a chain of zero terminal SNR: within an interval without end, outside any other."""
    process = GaussianProcess(LINEAR.backend, zero_terminal_snr(make_betas("linear", 100)), dtype=np.float64)
    c, u = (Saying(side.x_0, process=process) for side in sides())
    assert np.array_equal(cfg(c, u, high=80.0)(X, 99).x_0, c.x_0)
    np.testing.assert_allclose(cfg(c, u, scale=3.0)(X, 99).x_0, u.x_0 + 3 * (c.x_0 - u.x_0))


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_the_learned_variance_is_the_conditionals(scale: float) -> None:
    c, u = sides()
    assert cfg(c, u, scale=scale)(X, 10).fraction is c.fraction
    assert cfg(u, c, scale=scale)(X, 10).fraction is None


def test_guidance_is_of_the_array_standard() -> None:
    strict = Backend(array_api_strict)
    process = GaussianProcess(strict, make_betas("linear", 1000))
    c, u = (Saying(strict.asarray(side.x_0.astype(np.float32)), process=process) for side in sides())
    found = cfg(c, u, scale=3.0, rescale=0.7)(strict.asarray(X.astype(np.float32)), 300)
    assert found.x_0.dtype == found.eps.dtype == array_api_strict.float32
    on_numpy = cfg(Saying(strict.to_numpy(c.x_0)), Saying(strict.to_numpy(u.x_0)), scale=3.0, rescale=0.7)(
        X.astype(np.float32), 300
    )
    np.testing.assert_allclose(strict.to_numpy(found.x_0), on_numpy.x_0, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("cfg", {"scale": -1.0}, r"scale is -1\.0: give a number from 0"),
        ("cfg", {"scale": inf}, "scale is inf: give"),
        ("cfg", {"scale": float("nan")}, "scale is nan: give"),
        ("cfg", {"rescale": 1.5}, r"rescale is 1\.5: give"),
        ("cfg", {"low": 2.0, "high": 1.0}, r"low is 2\.0 and high 1\.0: give noise levels"),
        ("cfg", {"low": -1.0}, r"low is -1\.0"),
        ("cfg", {"scael": 2.0}, "unknown option of guidance 'cfg' 'scael': did you mean 'scale'"),
        ("auto", {}, "guidance 'auto' needs a weaker model: give its checkpoint or run folder as the option weak"),
        ("ctg", {}, "unknown guidance 'ctg': did you mean 'cfg'"),
    ],
)
def test_what_is_wrong_is_refused_by_the_call(name: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises((ConfigError, registry.RegistryError), match=line):
        make_guidance(name, *sides(), **options)


def test_without_an_unconditional_there_is_no_cfg() -> None:
    with pytest.raises(ConfigError, match="or was trained without --condition-dropout"):
        cfg(sides()[0], None)


def test_guidances_have_their_names_in_the_package() -> None:
    for entry in registry.entries("guidance"):
        if entry.distribution == "tinyddpm":
            assert getattr(guidance, entry.name.replace("-", "_")) is registry.load("guidance", entry.name)
