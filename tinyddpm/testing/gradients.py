"""Numerical checks of hand-derived gradients, by random projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

HostArray = np.ndarray[Any, Any]

STEP = 1e-5
"""Step of the central difference. Its truncation error is about the square of the step, 1e-10."""

ZERO = 1e-9
"""Share of Σ|y dy| below which a gradient counts as zero: some times the rounding error of a central difference."""


def direction(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Return a random direction whose components have sizes from 0.5 to 1.5, so that each element contributes."""
    return np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape))


def check_projection(
    value: Callable[[HostArray], HostArray],
    x: HostArray,
    dy: HostArray,
    dx: HostArray,
    rng: np.random.Generator,
    name: str = "x",
    rtol: float = 1e-6,
) -> None:
    """Compare ⟨dx, u⟩ with the central difference of ⟨value(x), dy⟩ along a random direction u.

    They may differ by `rtol` times Σ|dx u|, the sum of the sizes of the projection's terms, plus the rounding error of
    the two values: a few units of float64 in Σ|y dy|, divided by the step. A gradient that is zero to rounding fails,
    because a comparison of 0 with 0 proves nothing.

    Args:
        value: function from x to y, float64 of dy's shape.
        x: point at which to differentiate; not written to.
        dy: gradient of a loss with respect to y.
        dx: gradient to check, of x's shape.
        rng: generator of the direction u.
        name: name of x in the message.
        rtol: relative tolerance.

    Raises:
        AssertionError: shapes differ, the gradient is zero to rounding, or the projections disagree.
    """
    assert dx.shape == x.shape, f"gradient of {name} has shape {dx.shape}, {name} has {x.shape}"
    u = direction(x.shape, rng)
    above, below = value(x + STEP * u), value(x - STEP * u)
    numeric = float(np.sum((above - below) * dy)) / (2 * STEP)
    terms = dx * u
    size = float(np.sum(np.abs(terms)))
    rounding = 8 * np.finfo(np.float64).eps * float(np.sum(np.abs(above * dy))) / STEP
    assert size > rounding, f"gradient of {name} is zero to rounding ({size:.1e}): the check would compare 0 with 0"
    error = abs(numeric - float(np.sum(terms)))
    assert error <= rtol * size + rounding, (
        f"gradient of {name}: projection {np.sum(terms):.12g}, numerically {numeric:.12g}, off by {error / size:.1e}"
    )


def read_only(arrays: Mapping[str, HostArray]) -> dict[str, HostArray]:
    """Return read-only copies: a function that writes to its inputs raises ValueError on them."""
    copies = {name: array.copy() for name, array in arrays.items()}
    for array in copies.values():
        array.flags.writeable = False
    return copies


def check_zero(
    value: Callable[[HostArray], HostArray],
    w: HostArray,
    dy: HostArray,
    dw: HostArray,
    rng: np.random.Generator,
    name: str,
) -> None:
    """Check that a gradient is zero to rounding, as derived and by central difference; see `check_projection`."""
    u = direction(w.shape, rng)
    above, below = value(w + STEP * u), value(w - STEP * u)
    allowed = ZERO * float(np.sum(np.abs(above * dy)))
    derived = float(np.sum(np.abs(dw * u)))
    numeric = abs(float(np.sum((above - below) * dy))) / (2 * STEP)
    assert max(derived, numeric) <= allowed, (
        f"gradient of {name} is exempt as zero, but is {derived:.3g}, numerically {numeric:.3g}"
    )
