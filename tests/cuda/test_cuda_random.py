"""Philox by kernel gives the numbers of the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyddpm.backend import Backend, Purpose, Random, load_backend
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.errors import ConfigError
from tinyddpm.ops.cuda.random import CupyRandom

NUMPY = load_backend("numpy")
ULP = 1.5 * float(np.finfo(np.float32).eps)
"""The last place of a float32, relative to it: where a float64 logarithm's last place decides how it is rounded."""

word = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1])


@given(
    seed=st.integers(0, 2**64 - 1), purpose=st.sampled_from(list(Purpose)), step=word,
    samples=st.lists(word, min_size=1, max_size=3), shape=st.lists(st.integers(1, 7), max_size=3).map(tuple),
    layer=st.integers(0, 2**24 - 1),
)  # fmt: skip
@settings(max_examples=40)
def test_same_numbers(
    cuda: Backend, seed: int, purpose: Purpose, step: int, samples: list[int], shape: tuple[int, ...], layer: int
) -> None:
    """For every stream: bits bit for bit, normals to the last place."""
    ours, reference = CupyRandom(cuda, seed), Random(NUMPY.xp, seed)
    stream = (purpose, step, samples, shape, layer)
    np.testing.assert_array_equal(cuda.to_numpy(ours.bits(*stream)), reference.bits(*stream), strict=True)
    expected = reference.normal(*stream)
    found = cuda.to_numpy(ours.normal(*stream))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=ULP, atol=0)


def test_more_counters_than_threads(cuda: Backend) -> None:
    """1,100 elements a sample are 275 counters: two blocks, the last of them partly beyond the end."""
    ours, reference = CupyRandom(cuda, 3), Random(NUMPY.xp, 3)
    stream, mask = (Purpose.NOISE, 5, [7, 9], (11, 100)), (Purpose.DROPOUT, 1, [3, 4], (5, 9), 0.3)
    for found, expected in (
        (ours.bits(*stream), reference.bits(*stream)),
        (ours.keep_mask(*mask), reference.keep_mask(*mask)),
        (ours.permutation(Purpose.ORDER, 1, 700), reference.permutation(Purpose.ORDER, 1, 700)),
    ):
        np.testing.assert_array_equal(cuda.to_numpy(found), expected)


def test_q_sample(cuda: Backend) -> None:
    """x_t and eps of one launch are those of the process and of the reference's noise."""
    process = GaussianProcess(NUMPY, np.linspace(1e-4, 0.02, 100))
    t = np.asarray([0, 99, 42])
    x_0 = np.random.default_rng(1).normal(size=(3, 5, 3, 3)).astype(np.float32)
    stream = (Purpose.NOISE, 2**31 + 5, [2, 0, 2**32 - 1])
    signal, noise = (table.astype(np.float32) for table in (process.alpha_bar**0.5, (1 - process.alpha_bar) ** 0.5))
    random = CupyRandom(cuda, 2**63 + 1)
    found = random.q_sample(*map(cuda.asarray, (x_0, t, signal, noise)), *stream)
    x_t, eps = map(cuda.to_numpy, found)
    expected = Random(NUMPY.xp, 2**63 + 1).normal(*stream, (5, 3, 3))
    np.testing.assert_allclose(eps, expected, rtol=ULP, atol=0)
    np.testing.assert_allclose(x_t, process.q_sample(x_0, t, expected), rtol=0, atol=1e-6)


def test_nothing_to_draw(cuda: Backend) -> None:
    assert CupyRandom(cuda, 0).normal(Purpose.NOISE, 0, [], (3,)).shape == (0, 3)


def test_refuses_what_the_reference_refuses(cuda: Backend) -> None:
    random = CupyRandom(cuda, 0)
    with pytest.raises(ConfigError, match="step"):
        random.bits(Purpose.NOISE, 2**32, [0], (1,))
    with pytest.raises(ConfigError, match="sample"):
        random.normal(Purpose.NOISE, 0, [-1], (1,))
