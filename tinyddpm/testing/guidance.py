"""The conformance kit for guidance: a denoiser made of denoisers must be a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array, Backend, load_backend
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.errors import ConfigError
from tinyddpm.guidance import Lone
from tinyddpm.testing.gradients import HostArray, read_only
from tinyddpm.testing.plugin import resolve

T = 1000
TIMES = (0, 300, 999)
SHAPE = (3, 4, 4, 2)
TOLERANCE = 1e-3
"""Largest error of x_t, of order 1, when computed from a predicted x_0 and eps in float32."""


def check_guidance(guidance: str | Callable[..., Denoiser], **options: Any) -> None:
    """Check that a guidance keeps its contract, on NumPy, and on array-api-strict where it is installed.

    - The guided denoiser predicts an x_0 and eps of x_t's shape and type, from which x_t can be computed.
    - If all its denoisers predict the same, it predicts that too.
    - The learned variance is that of the conditional denoiser.
    - Inputs are not written to, the same inputs give the same bits, also after others, and samples do not depend on
      their batch.
    - It works without an unconditional denoiser, or refuses that with ConfigError.

    Args:
        guidance: its registered name, or the function, see `tinyddpm.guidance.Guidance`. A denoiser is passed as its
            option `weak`, if it has that.
        options: options of the guidance.

    Raises:
        AssertionError: the guidance breaks its contract; the line names the property.
    """
    function, what = resolve("guidance", guidance, arguments=2)
    host = _Sides(load_backend("numpy"), function, options)
    x = read_only({"x": np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)})["x"]
    for t in TIMES:
        guided = host.guided((0.8, 0.3))
        found = _asked(guided, x, t, what)
        for name, array in (("x_0", found.x_0), ("eps", found.eps)):
            assert array.shape == x.shape, f"{what}: {name} has shape {array.shape}, not {x.shape}"
            assert array.dtype == x.dtype, f"{what}: {name} is {array.dtype} for {x.dtype} samples"
        apart = _apart(host.process.q_sample(found.x_0, t, found.eps), x)
        assert apart <= TOLERANCE, f"{what}: at t = {t} x_t computed from its x_0 and eps is off by {apart:.1e}"
        assert found.fraction is not None, f"{what}: it predicts no learned variance, as the conditional does"
        apart = _apart(found.fraction, host.side(0.8)(x, t).fraction)
        assert apart == 0, f"{what}: the learned variance differs from the conditional's by {apart:.1e}"
        guided(x[::-1], t)
        again = guided(x, t)
        assert np.array_equal(found.x_0, again.x_0), f"{what}: the same inputs give different predictions"
        alone = host.guided((0.8, 0.3))(x[1:2], t)
        apart = _apart(alone.x_0, found.x_0[1:2])
        assert apart <= TOLERANCE, f"{what}: a sample alone is off by {apart:.1e} from the same sample in a batch"
        apart = _apart(host.guided((0.8, 0.8))(x, t).x_0, host.side(0.8)(x, t).x_0)
        assert apart <= TOLERANCE, f"{what}: where its denoisers agree, it is off from them by {apart:.1e}"
    _check_alone(host, x, what)
    _check_standard(host, x, what)


class _Sides:
    """A guidance, and simple denoisers for it: each predicts x_0 as a fixed share of x_t."""

    def __init__(self, backend: Backend, function: Callable[..., Denoiser], options: dict[str, Any]) -> None:
        self.process = GaussianProcess(backend, make_betas("linear", T))
        self.function, self.options = function, options

    def side(self, share: float) -> Lone:
        """Return the denoiser that predicts x_0 = share · x_t, and `share` as the fraction of the learned variance."""

        def denoiser(x_t: Array, t: int) -> Prediction:
            x_0 = share * x_t
            fraction = self.process.backend.xp.full_like(x_t, share)
            return Prediction(x_0, self.process.predict_eps(x_t, t, x_0), fraction)

        return Lone(self.process, denoiser)

    def guided(self, shares: tuple[float, float], alone: bool = False) -> Denoiser:
        """Return the guided denoiser of two denoisers, the conditional and the other one, with these shares.

        If it is `alone`, the conditional has no unconditional beside it.
        """
        conditional, other = (self.side(share) for share in shares)
        weak = {"weak": other} if "weak" in registry.options(self.function) else {}
        return self.function(conditional, None if alone else other, **{**weak, **self.options})


def _asked(denoiser: Denoiser, x: HostArray, t: int, what: str) -> Prediction:
    try:
        found = denoiser(x, t)
    except ValueError as cause:
        raise AssertionError(f"{what} fails with read-only inputs: ValueError: {cause}") from cause
    assert isinstance(found, Prediction), f"{what} returns a {type(found).__name__}, not a Prediction"
    return found


def _apart(a: Array, b: Array) -> float:
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))))


def _check_alone(host: _Sides, x: HostArray, what: str) -> None:
    """Check that the guidance works without an unconditional denoiser, or refuses that with ConfigError."""
    try:
        guided = host.guided((0.8, 0.3), alone=True)
        for t in TIMES:
            guided(x, t)
    except ConfigError:
        return
    except (AttributeError, TypeError) as cause:
        raise AssertionError(
            f"{what} fails without an unconditional denoiser: {type(cause).__name__}: {cause}: refuse None"
            " with ConfigError"
        ) from cause


def _check_standard(host: _Sides, x: HostArray, what: str) -> None:
    """Check that the guidance needs only the array API standard, if array-api-strict is installed."""
    try:
        import array_api_strict
    except ImportError:
        return
    backend = Backend(array_api_strict)
    strict = _Sides(backend, host.function, host.options)
    try:
        found = strict.guided((0.8, 0.3))(backend.asarray(x), TIMES[1])
    except (AttributeError, IndexError, TypeError, ValueError) as cause:
        raise AssertionError(f"{what} fails on array-api-strict: {type(cause).__name__}: {cause}") from cause
    apart = _apart(backend.to_numpy(found.x_0), host.guided((0.8, 0.3))(x, TIMES[1]).x_0)
    assert apart <= TOLERANCE, f"{what}: predictions on array-api-strict are off by {apart:.1e}"
