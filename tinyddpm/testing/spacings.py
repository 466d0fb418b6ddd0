"""The conformance kit for spacings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.samplers.spacings import Floats
from tinyddpm.testing.gradients import read_only
from tinyddpm.testing.plugin import resolve

CHAINS = (("linear", 1000), ("cosine", 50))


def check_spacing(spacing: str | Callable[..., Floats], **options: Any) -> None:
    """Check that a spacing keeps its contract, with these options.

    On chains of T = 1000 and 50, for 1, 2, 7, T / 2 and T steps, it returns a time for each step: real numbers that
    start at T − 1, fall, stay above −1 and are the same at every call. alpha_bar is not written to.

    Args:
        spacing: its registered name, or the function `alpha_bar, steps, **options -> times`.
        options: its options.

    Raises:
        AssertionError: the spacing breaks its contract; the line names T, the number of steps and the property.
    """
    function, what = resolve("spacings", spacing, arguments=2)
    for schedule, T in CHAINS:
        table = read_only({"alpha_bar": np.cumprod(1 - make_betas(schedule, T))})["alpha_bar"]
        for steps in (1, 2, 7, T // 2, T):
            where = f"{what} for {steps} of {T} steps"
            try:
                times, again = (np.asarray(function(table, steps, **options)) for _ in range(2))
            except ValueError as cause:
                raise AssertionError(f"{where} fails with a read-only alpha_bar: {cause}") from cause
            assert times.shape == (steps,), f"{where} gives an array of shape {times.shape}, not {(steps,)}"
            assert np.all(np.isfinite(times)), f"{where} gives a time that is not finite"
            assert abs(times[0] - (T - 1)) < 0.5, f"{where} starts at {times[0]:g}: start at T - 1 = {T - 1}"
            assert times[-1] > -1, f"{where} ends at {times[-1]:g}: stay above -1, to which the last step leads"
            assert np.all(np.diff(times) <= 0), f"{where} rises: each time must be below the one before"
            assert np.array_equal(times, again), f"{where} gives other times at the second call"
