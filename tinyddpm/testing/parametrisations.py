"""The conformance kit for parametrisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm.backend import load_backend
from tinyddpm.diffusion.parametrisation import Coefficients, Parametrisation
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.errors import ConfigError
from tinyddpm.testing.plugin import resolve

SCHEDULES = ("linear", "cosine", "flow")
T = 50


def check_parametrisation(parametrisation: str | Callable[..., Coefficients], **options: Any) -> None:
    """Check that a parametrisation keeps its contract, with these options.

    On several chains, coefficients are float64 of shape (T,), finite, and the same at every call; the scale is above 0;
    and x_0 and eps can be computed from x_t and F at every time.

    Args:
        parametrisation: its registered name, or the function `alpha_bar, **options -> Coefficients`.
        options: its options.

    Raises:
        AssertionError: the parametrisation breaks its contract; the line names the schedule and the property.
    """
    function, name = resolve("parametrisations", parametrisation, arguments=1)
    x_0, eps = np.random.default_rng(0).standard_normal((2, T, 3))
    for schedule in SCHEDULES:
        what = f"{name} on schedule {schedule!r}"
        process = GaussianProcess(load_backend("numpy"), make_betas(schedule, T), dtype=np.float64)
        given = process.alpha_bar.copy()
        found, again = function(given, **options), function(given, **options)
        assert isinstance(found, Coefficients), f"{what}: returned {type(found).__name__}, it must be Coefficients"
        try:
            made = Parametrisation(process, found)
        except ConfigError as error:
            raise AssertionError(f"{what}: {error}") from error
        assert np.array_equal(given, process.alpha_bar), f"{what}: alpha_bar was written to"
        assert all(map(np.array_equal, found, again)), f"{what}: two calls give different coefficients"
        assert np.all(made.scale > 0), f"{what}: a scale is not above 0"
        t = np.arange(T)
        x_t = process.q_sample(x_0, t, eps)
        off = np.abs(np.subtract(made.implied(x_t, t, made.target(x_0, t, eps)), (x_0, eps)))
        rounding = 1e-12 * np.max([np.abs(each) for each in (made.skip, made.out, made.eps_skip, made.eps_out)], axis=0)
        lost = np.flatnonzero(off.max(axis=(0, 2)) > 1e-12 + 10 * rounding)
        assert not lost.size, f"{what}: x_0 and eps do not come back from x_t and F at t = {lost[0]}"
