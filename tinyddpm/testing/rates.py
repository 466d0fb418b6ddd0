"""The conformance kit for rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm.testing.plugin import resolve
from tinyddpm.training.rates import Table


def check_rate(rate: str | Callable[..., Table], **options: Any) -> None:
    """Check that a rate keeps its contract, with these options.

    For 1, 2, 7 and 1000 steps, it returns a share for each step: float64, finite, not below 0, the first one above 0,
    and the same at every call.

    Args:
        rate: its registered name, or the function `steps, **options -> shares`.
        options: its options.

    Raises:
        AssertionError: the rate breaks its contract; the line names the number of steps and the property.
    """
    function, what = resolve("rates", rate, arguments=1)
    for steps in (1, 2, 7, 1000):
        where = f"{what} for {steps} steps"
        shares, again = (np.asarray(function(steps, **options)) for _ in range(2))
        assert shares.shape == (steps,), f"{where} gives an array of shape {shares.shape}, not {(steps,)}"
        assert shares.dtype == np.float64, f"{where} gives {shares.dtype}, not float64"
        assert np.all(np.isfinite(shares)), f"{where} gives a share that is not finite"
        assert np.all(shares >= 0), f"{where} gives a share below 0"
        assert shares[0] > 0, f"{where} starts at 0: nothing would be learned in the warm-up"
        assert np.array_equal(shares, again), f"{where} gives other shares at the second call"
