"""Philox by kernel gives the numbers of the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyddpm.backend import Backend, Purpose, Random, load_backend
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.errors import ConfigError
from tinyddpm.ops import load_operations
from tinyddpm.ops.cuda.random import CupyRandom
from tinyddpm.ops.images import flip_horizontally, to_model

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


@given(
    seed=st.integers(0, 2**64 - 1), purpose=st.sampled_from(list(Purpose)), step=word,
    samples=st.lists(word, min_size=1, max_size=3), layer=st.integers(0, 2**24 - 1),
)  # fmt: skip
@settings(max_examples=20)
def test_step_and_samples_on_the_device(
    cuda: Backend, seed: int, purpose: Purpose, step: int, samples: list[int], layer: int
) -> None:
    """Whether step and samples come as numbers or lie on the device, every method gives the same."""
    random = CupyRandom(cuda, seed)
    there = cuda.asarray(np.asarray([step])), cuda.asarray(np.asarray(samples))
    for method, extra in ((random.bits, ()), (random.normal, ()), (random.uniform, ()), (random.integers, (1000,)),
                          (random.keep_mask, (0.3,))):  # fmt: skip
        numbers = method(purpose, step, samples, (5,), *extra, layer=layer)
        np.testing.assert_array_equal(
            cuda.to_numpy(method(purpose, *there, (5,), *extra, layer=layer)), cuda.to_numpy(numbers)
        )


def on_the_host(
    seed: int, data: np.ndarray, places: list[int], samples: list[int], step: int, process: GaussianProcess, flip: bool
) -> tuple[np.ndarray, ...]:
    """Return x_0, t, eps and x_t, as a step that is done by the host makes them."""
    random = Random(NUMPY.xp, seed)
    x_0 = data[places]
    if data.dtype == np.uint8:
        x_0 = to_model(x_0)
    if flip:
        x_0 = flip_horizontally(x_0, random.uniform(Purpose.FLIP, step, samples, ()) < 0.5)
    t = random.integers(Purpose.TIME, step, samples, (), process.T)
    eps = random.normal(Purpose.NOISE, step, samples, data.shape[1:])
    return x_0, t, eps, process.q_sample(x_0, t, eps)


@given(
    seed=st.integers(0, 2**64 - 1), step=word, samples=st.lists(word, min_size=1, max_size=6),
    shape=st.tuples(*[st.integers(1, 7)] * 3) | st.tuples(st.integers(1, 9)) | st.just((19, 18, 3)),
    flip=st.booleans(), T=st.integers(1, 1000),
)  # fmt: skip
@settings(max_examples=40)
def test_noised(
    cuda: Backend, seed: int, step: int, samples: list[int], shape: tuple[int, ...], flip: bool, T: int
) -> None:
    """Over images and points of odd sizes, flips on and off: x_0 and t bit for bit, eps to the last place, and x_t to
    two roundings of its terms. The last image has more counters than a block has threads."""
    rng = np.random.default_rng(seed)
    images, flip = len(shape) == 3, flip and len(shape) == 3
    data = rng.integers(0, 256, (5, *shape), np.uint8) if images else rng.normal(size=(5, *shape)).astype(np.float32)
    places = rng.integers(0, 5, len(samples)).tolist()
    process = GaussianProcess(NUMPY, np.linspace(1e-4, 0.02, T))
    signal, noise = (table.astype(np.float32) for table in (process.alpha_bar**0.5, (1 - process.alpha_bar) ** 0.5))
    arrays = ([step], samples, data)
    levels = tuple(map(cuda.asarray, (signal, noise)))
    found = load_operations(cuda).noised(
        CupyRandom(cuda, seed), *map(cuda.asarray, arrays), levels, cuda.asarray(places), flip=flip
    )
    x_0, t, eps, x_t = map(cuda.to_numpy, found)
    expected = on_the_host(seed, data, places, samples, step, process, flip)
    np.testing.assert_array_equal(x_0, expected[0], strict=True)
    np.testing.assert_array_equal(t, expected[1], strict=True)
    np.testing.assert_allclose(eps, expected[2], rtol=ULP, atol=0, strict=True)
    terms = np.abs(expected[0]) + np.abs(expected[2])
    assert x_t.dtype == np.float32
    assert (np.abs(x_t - expected[3]) <= 2 * ULP * terms).all()


def test_noised_takes_numbers_of_the_host(cuda: Backend) -> None:
    """Step and samples as an int and a list; and both kinds of flips are seen."""
    data = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 2), np.uint8)
    tables = (cuda.asarray(np.ones(7, np.float32)),) * 2
    samples = list(range(12))
    there = cuda.asarray(data), tables, cuda.asarray([1] * 12)
    batch = load_operations(cuda).noised(CupyRandom(cuda, 3), 8, samples, *there, flip=True)
    x_0, image = cuda.to_numpy(batch[0]), to_model(data[1])
    mirrored = Random(NUMPY.xp, 3).uniform(Purpose.FLIP, 8, samples, ()) < 0.5
    assert 0 < mirrored.sum() < 12
    for found, is_mirrored in zip(x_0, mirrored, strict=True):
        np.testing.assert_array_equal(found, image[:, ::-1] if is_mirrored else image)


def test_nothing_to_draw(cuda: Backend) -> None:
    assert CupyRandom(cuda, 0).normal(Purpose.NOISE, 0, [], (3,)).shape == (0, 3)


def test_refuses_what_the_reference_refuses(cuda: Backend) -> None:
    random = CupyRandom(cuda, 0)
    with pytest.raises(ConfigError, match="step"):
        random.bits(Purpose.NOISE, 2**32, [0], (1,))
    with pytest.raises(ConfigError, match="sample"):
        random.normal(Purpose.NOISE, 0, [-1], (1,))
