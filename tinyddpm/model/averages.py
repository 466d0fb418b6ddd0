"""Power-function averages of the weights: their profiles, and the fit of any average by others after training.

The average of exponent γ weights the parameters θ at time τ in proportion to τ^γ (EDM2, 2312.02696, section 3.1). Its
profile after t steps, the weight of each time, is

    p(τ) = (γ + 1) τ^γ / t^(γ+1),  0 < τ ≤ t.

The standard deviation of p is the same fraction of t for every t: the relative length of the average. Parameters change
once a step, θ(τ) = θ_k for k − 1 < τ ≤ k. So the weight of θ_k is

    w_k = ∫_{k−1}^k p(τ) dτ = (k^(γ+1) − (k − 1)^(γ+1)) / t^(γ+1)

The update θ̂ ← β_t θ̂ + (1 − β_t) θ_t with β_t = (1 − 1/t)^(γ+1) gives θ_k exactly this weight: θ_k enters with
1 − β_k, which later steps multiply by the product of β_j over j = k + 1 … t, and that product is (k/t)^(γ+1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tinyddpm.errors import ConfigError

if TYPE_CHECKING:  # reading settings does not import NumPy
    import numpy as np

    Vector: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

SHORTEST, LONGEST = 1e-4, 12**-0.5
"""Bounds of relative lengths. The longest is that of the plain mean, γ = 0: beyond it, late weights would count less
than early ones. Shorter than the shortest, an average has no use and its name no digits."""


def lengths_of(text: str) -> tuple[float, ...]:
    """Return the relative lengths in a text such as "0.05,0.10"; () for an empty text.

    Raises:
        ConfigError: an item is no number from `SHORTEST` to `LONGEST`, or a length occurs twice.
    """
    try:
        lengths = tuple(map(float, text.split(","))) if text.strip() else ()
    except ValueError:
        lengths = (0.0,)
    if not all(SHORTEST <= length <= LONGEST for length in lengths):
        raise ConfigError(f"{text!r} is no list of lengths: give numbers from 0.0001 to 0.288, such as 0.05,0.10")
    if len({*map(name_of, lengths)}) < len(lengths):
        raise ConfigError(f"{text!r} names a length twice: give each once")
    return lengths


def name_of(length: float) -> str:
    """Return a relative length as written in names of arrays and files: with three digits, or more if it has more."""
    return max(f"{length:.3f}", f"{length:g}", key=len)


def exponent_of(length: float) -> float:
    """Return the exponent γ ≥ 0 for a relative length σ: (γ + 1) / ((γ + 2)² (γ + 3)) = σ² (EDM2, eq. 123)."""
    import numpy as np

    squared = length**-2
    return max(0.0, float(np.roots([1, 7, 16 - squared, 12 - squared]).real.max()))


def inner_product(t_a: Any, exponent_a: Any, t_b: Any, exponent_b: Any) -> Any:
    """Return ∫ p_a(τ) p_b(τ) dτ of two profiles (EDM2, Algorithm 3), per unit of time; arguments are broadcast.

    Up to the shorter time s both are powers, so it is (γ_a + 1) (γ_b + 1) s^(γ_a+γ_b+1) / ((γ_a + γ_b + 1) t_a^(γ_a+1)
    t_b^(γ_b+1)). With the longer time l and the exponent γ of its profile, the powers of time are (s/l)^γ / l, which is
    how they are computed: no power overflows.
    """
    import numpy as np

    longer = np.maximum(t_a, t_b)
    share = (np.minimum(t_a, t_b) / longer) ** np.where(t_a < t_b, exponent_b, exponent_a)
    return (exponent_a + 1) * (exponent_b + 1) * share / ((exponent_a + exponent_b + 1) * longer)


@dataclass(frozen=True)
class Fit:
    """The coefficients that make one profile of others, and the error.

    Attributes:
        shares: (n,), the coefficients; they add up to 1.
        error: √(t ∫ r(τ)² dτ) over the t steps, with the residual r = Σ share_i p_i − p. The resulting average of the
            weights is off by at most this times the root mean square of their distance from any fixed point.
    """

    shares: Vector
    error: float


def fit(times: Vector, exponents: Vector, t: float, exponent: float) -> Fit:
    """Return the best fit of the profile of an exponent after t steps by profiles of other times and exponents.

    The fit is that of least squares (EDM2, section 3.2) under the constraint that the shares add up to 1. Without the
    constraint the error would contain the mean of the weights, which is far larger than their changes.

    Let r_k be the integral of r over step k. By Cauchy and Schwarz r_k² ≤ ∫ r² over the step; and Σ r_k = 0. So
    |Σ r_k θ_k| = |Σ r_k (θ_k − c)| ≤ √(Σ r_k²) √(Σ |θ_k − c|²) for any c, which is the bound stated for `error`.

    Args:
        times: (n,), the steps of the available averages, at most t.
        exponents: (n,), their exponents.
        t: the number of steps, at least 1.
        exponent: the exponent of the wanted profile.
    """
    import numpy as np

    n, times = len(times), times / t
    grid = inner_product(times[:, None], exponents[:, None], times, exponents)
    wanted = inner_product(times, exponents, 1.0, exponent)
    conditions = np.block([[grid, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    # By least squares, as the system is nearly singular: averages of neighbouring steps are nearly the same.
    shares = np.linalg.lstsq(conditions, np.append(wanted, 1.0), rcond=None)[0][:n]
    left = shares @ grid @ shares - 2 * wanted @ shares + inner_product(1.0, exponent, 1.0, exponent)
    return Fit(shares, float(max(0.0, left) ** 0.5))
