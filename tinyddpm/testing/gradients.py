"""Numerical checks of hand-derived gradients, by random projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

HostArray = np.ndarray[Any, Any]

STEP = 1e-5
"""Relative step of the central difference; its truncation error is about the square."""

ZERO = 1e-9
"""A gradient counts as zero below this share of Σ|y dy|: some times what rounding makes of a central difference."""


def direction(shape: tuple[int, ...], rng: np.random.Generator) -> HostArray:
    """Return a random direction with every component between 0.5 and 1.5 in size, so that no element can hide."""
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

    The difference may be `rtol` of Σ|dx u|, the sum of what the projection adds up, and the rounding of the two
    values, a few units of float64 in Σ|y dy| divided by the step. A gradient that is nothing but rounding fails:
    a comparison of 0 with 0 proves nothing.

    Args:
        value: the function of x alone, float64 to float64, of dy's shape.
        x: where to differentiate; not written to.
        dy: the gradient that reaches the value.
        dx: the gradient to check.
        rng: draws the direction.
        name: of x, for the message.
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
    """Return copies that refuse to be written to: a function that mutates its inputs fails on them."""
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
    """Check that the gradient is zero to rounding, both as derived and numerically; see `check_projection`."""
    u = direction(w.shape, rng)
    above, below = value(w + STEP * u), value(w - STEP * u)
    allowed = ZERO * float(np.sum(np.abs(above * dy)))
    derived = float(np.sum(np.abs(dw * u)))
    numeric = abs(float(np.sum((above - below) * dy))) / (2 * STEP)
    assert max(derived, numeric) <= allowed, (
        f"gradient of {name} is exempt as zero, but is {derived:.3g}, numerically {numeric:.3g}"
    )
