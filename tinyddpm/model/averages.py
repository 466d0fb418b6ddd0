"""Power-function averages of the weights: their profiles, and one average made of others when training is done.

The average of exponent γ counts the weights θ at time τ in proportion to τ^γ (EDM2, 2312.02696, section 3.1). After t
steps its profile, which says how much each time counts, is

    p(τ) = (γ + 1) τ^γ / t^(γ+1),  0 < τ ≤ t,

whose standard deviation is the same share of t at any t: the average's relative length. Weights are those of a whole
step, θ(τ) = θ_k for k − 1 < τ ≤ k. So θ_k counts

    w_k = ∫ p(τ) dτ from k − 1 to k = (k^(γ+1) − (k − 1)^(γ+1)) / t^(γ+1),

and this is what the update θ̂ ← β_t θ̂ + (1 − β_t) θ_t with β_t = (1 − 1/t)^(γ+1) leaves of θ_k exactly: it comes in by
1 − β_k, and what is left of it is the product of β_j over j = k + 1 … t, which is (k/t)^(γ+1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tinyddpm.errors import ConfigError

if TYPE_CHECKING:  # whoever reads settings need not wait for NumPy
    import numpy as np

    Vector: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

LONGEST = 12**-0.5
"""The relative length of the mean of all weights so far, γ = 0. Beyond it late weights would count less than early."""


def lengths_of(text: str) -> tuple[float, ...]:
    """Return the relative lengths that a text such as "0.05,0.10" names; () of an empty one.

    Raises:
        ConfigError: it names what is no length, or a length twice.
    """
    try:
        lengths = tuple(map(float, text.split(","))) if text.strip() else ()
    except ValueError:
        lengths = (0.0,)
    if not all(0 < length <= LONGEST for length in lengths):
        raise ConfigError(f"{text!r} is no list of lengths: give numbers above 0 and up to 0.288, such as 0.05,0.10")
    if len({*map(name_of, lengths)}) < len(lengths):
        raise ConfigError(f"{text!r} names a length twice: give each once")
    return lengths


def name_of(length: float) -> str:
    """Return a relative length as names of arrays and files have it: three digits, and more where it has more."""
    return max(f"{length:.3f}", f"{length:g}", key=len)


def exponent_of(length: float) -> float:
    """Return γ ≥ 0 of a relative length σ: (γ + 1) / ((γ + 2)² (γ + 3)) = σ² (EDM2, eq. 123)."""
    import numpy as np

    squared = length**-2
    return max(0.0, float(np.roots([1, 7, 16 - squared, 12 - squared]).real.max()))


def length_of(exponent: float) -> float:
    """Return the relative length of exponent γ: √(γ + 1) / ((γ + 2) √(γ + 3)), the profile's standard deviation."""
    return float((exponent + 1) ** 0.5 / ((exponent + 2) * (exponent + 3) ** 0.5))


def inner_product(t_a: Any, exponent_a: Any, t_b: Any, exponent_b: Any) -> Any:
    """Return ∫ p_a(τ) p_b(τ) dτ of two profiles (EDM2, Algorithm 3), per unit of time; arguments are broadcast.

    Both are powers up to the shorter time s, so it is (γ_a + 1) (γ_b + 1) s^(γ_a+γ_b+1) / ((γ_a + γ_b + 1) t_a^(γ_a+1)
    t_b^(γ_b+1)). With the longer time l it is written so that no power overflows: s to the exponent of the longer one.
    """
    import numpy as np

    longer = np.maximum(t_a, t_b)
    share = (np.minimum(t_a, t_b) / longer) ** np.where(t_a < t_b, exponent_b, exponent_a)
    return (exponent_a + 1) * (exponent_b + 1) * share / ((exponent_a + exponent_b + 1) * longer)


@dataclass(frozen=True)
class Fit:
    """A profile made of others: how much each of them counts, and what is left over.

    Attributes:
        shares: one for each of the others; they add up to 1.
        error: √(t ∫ r(τ)² dτ) of what is left over, r = Σ share_i p_i − p, over the t steps. The average that is made
            is off by at most this times the root mean square, over the steps, of the weights' distance from any point.
    """

    shares: Vector
    error: float


def fit(times: Vector, exponents: Vector, t: float, exponent: float) -> Fit:
    """Return the profile of an exponent after t steps as the nearest sum of profiles of other times and exponents.

    It is that of least squares (EDM2, section 3.2), among those whose shares add up to 1, as the weights of a mean do:
    otherwise the mean of all weights, far larger than they move, would be part of the error.

    By Cauchy and Schwarz r_k, the integral of r over a step, has r_k² ≤ ∫ r² over it; and Σ r_k = 0. So |Σ r_k θ_k| =
    |Σ r_k (θ_k − c)| ≤ √(Σ r_k²) √(Σ |θ_k − c|²) for any c, which is the bound by `error`.

    Args:
        times: (n,), steps at which there are averages, at most t.
        exponents: (n,), theirs.
        t: steps, at least 1.
        exponent: of the profile that is wanted.
    """
    import numpy as np

    n, times = len(times), times / t
    grid = inner_product(times[:, None], exponents[:, None], times, exponents)
    wanted = inner_product(times, exponents, 1.0, exponent)
    conditions = np.block([[grid, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    # Not solved but fitted: averages of neighbouring steps are nearly the same.
    shares = np.linalg.lstsq(conditions, np.append(wanted, 1.0), rcond=None)[0][:n]
    left = shares @ grid @ shares - 2 * wanted @ shares + inner_product(1.0, exponent, 1.0, exponent)
    return Fit(shares, float(max(0.0, left) ** 0.5))
