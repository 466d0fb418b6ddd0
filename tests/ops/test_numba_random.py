"""Random numbers drawn by compiled code are those of the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.backend import Purpose, Random, load_backend
from tinyddpm.errors import ConfigError

NUMBA = load_backend("numba")
WORD = st.integers(0, 2**32 - 1)


@given(
    seed=st.integers(0, 2**64 - 1), purpose=st.sampled_from(Purpose), step=WORD, layer=st.integers(0, 2**24 - 1),
    samples=st.lists(WORD, max_size=5), shape=st.lists(st.integers(0, 40), max_size=3), rate=st.floats(0, 1),
)  # fmt: skip
def test_the_same_numbers(
    seed: int, purpose: Purpose, step: int, layer: int, samples: list[int], shape: list[int], rate: float
) -> None:
    """Over all that a stream depends on, and shapes up to several pieces: bits, masks and uniform numbers bit for bit,
    normal ones to the last rounding."""
    ours, reference = NUMBA.random(seed), Random(NUMBA.xp, seed)
    arguments = purpose, step, samples, tuple(shape)
    for method, extra in (("bits", ()), ("uniform", ()), ("integers", (1000,)), ("keep_mask", (rate,))):
        found, expected = (getattr(random, method)(*arguments, *extra, layer=layer) for random in (ours, reference))
        np.testing.assert_array_equal(found, expected, err_msg=method, strict=True)
    found, expected = (random.normal(*arguments, layer=layer) for random in (ours, reference))
    np.testing.assert_allclose(found, expected, rtol=2.0**-23, atol=0, strict=True)


def test_refusals() -> None:
    random = NUMBA.random(0)
    for draw in (lambda: random.normal(Purpose.NOISE, -1, [0], (2,)), lambda: random.bits(Purpose.NOISE, 0, [-1], ())):
        with pytest.raises(ConfigError):
            draw()
    with pytest.raises(ConfigError, match="is not in \\[0, 1\\]"):
        random.keep_mask(Purpose.DROPOUT, 0, [0], (2,), 1.5)
