"""Philox 4x32-10, a counter-based generator without state: for each key a bijection of 128 bits (Salmon et al. 2011).

It uses int64 arithmetic of the array API standard, since Torch lacks most of uint32 and uint64. The product p of two
32-bit words wraps modulo 2**64 there and keeps every bit: its high word is `(p >> 32) & MASK`, its low word `p & MASK`.
"""

from __future__ import annotations

from tinyddpm.backend.array import Array

ROUNDS = 10
MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
"""Increments of the two key words between rounds: the first 32 bits of the golden ratio and of sqrt(3) - 1."""


def philox_4x32(counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Return the four random words of each counter.

    Args:
        counter: four int64 arrays of words in [0, 2**32) that broadcast against each other. None may be 0-d, for NumPy
            warns when a scalar wraps.
        key: two words in [0, 2**32), the same for all counters.

    Returns:
        Four int64 arrays of words in [0, 2**32), of the counter's broadcast shape.
    """
    # Words 1 and 3 and the keys only enter an exclusive or that is masked afterwards: their high bits may stay.
    # Words that vary along one axis keep that small shape until a round mixes them: the first rounds are cheap.
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & MASK, p1, ((p0 >> 32) ^ c3 ^ k1) & MASK, p0
        k0, k1 = k0 + WEYL[0], k1 + WEYL[1]
    return c0, c1 & MASK, c2, c3 & MASK


def split(value: int) -> tuple[int, int]:
    """Return the low and the high 32-bit word of a 64-bit `value`."""
    return value & MASK, value >> 32
