"""The conformance kit for weightings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import load_backend
from tinyddpm.diffusion.parametrisation import make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess, Table
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.testing.gradients import read_only
from tinyddpm.testing.plugin import resolve

NUMPY = load_backend("numpy")
CHAINS = (("linear", 1000), ("cosine", 1000), ("cosine", 50))


def check_weighting(weighting: str | Callable[..., Table], **options: Any) -> None:
    """Check that a weighting keeps its contract, with these options.

    For each parametrisation, on several chains, the weights are float64 of shape (T,), finite, above 0 and the same at
    every call. alpha_bar is not written to.

    Args:
        weighting: its registered name, or the function `alpha_bar, parametrisation, **options -> weights`.
        options: its options.

    Raises:
        AssertionError: the weighting breaks its contract; the line names chain, parametrisation and property.
    """
    function, what = resolve("weightings", weighting, arguments=2)
    for schedule, T in CHAINS:
        betas = make_betas(schedule, T)
        table, process = read_only({"alpha_bar": np.cumprod(1 - betas)})["alpha_bar"], GaussianProcess(NUMPY, betas)
        for predict in (entry.name for entry in registry.entries("parametrisations")):
            parametrisation = make_parametrisation(process, predict)
            where = f"{what} on a {schedule} chain of {T}, predicting {predict},"
            try:
                weights, again = (function(table, parametrisation, **options) for _ in range(2))
            except ValueError as cause:
                raise AssertionError(f"{where} fails with a read-only alpha_bar: {cause}") from cause
            kind = f"{getattr(weights, 'dtype', type(weights).__name__)} of shape {np.shape(weights)}"
            assert kind == f"float64 of shape {(T,)}", f"{where} gives {kind}, it must be float64 of shape {(T,)}"
            wrong = np.flatnonzero(~((weights > 0) & (weights < np.inf)))
            assert not wrong.size, f"{where} weighs t = {wrong[0]} by {weights[wrong[0]]:g}: give a number above 0"
            assert np.array_equal(weights, again), f"{where} gives other weights at the second call"
