"""Random numbers: what they depend on, that all backends draw the same, and that they follow their laws.

Statistical tests fix their seed. A sound generator with a seed drawn at random fails one with probability 1e-6.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.backend import Backend, Purpose, Random
from tinyddpm.backend.philox import philox_4x32
from tinyddpm.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("error")

HostArray = np.ndarray[Any, Any]
Draw = Callable[..., Any]

DRAWS: dict[str, Draw] = {
    "bits": Random.bits,
    "normal": Random.normal,
    "uniform": Random.uniform,
    "integers": lambda random, *stream, **layer: random.integers(*stream, 10, **layer),
    "keep_mask": lambda random, *stream, **layer: random.keep_mask(*stream, 0.3, **layer),
}

kind = st.sampled_from(sorted(DRAWS))
purpose = st.sampled_from(Purpose)
word = st.integers(0, 2**32 - 1)
seed = st.integers(0, 2**64 - 1)
shape = st.lists(st.integers(1, 5), max_size=3).map(tuple)


def z_of(failures: float) -> float:
    """Return the z that a normal exceeds in magnitude with probability `failures`."""
    return -NormalDist().inv_cdf(failures / 2)


def chi_square_limit(degrees: int, failures: float = 1e-6) -> float:
    """Return what chi-square exceeds with probability `failures` (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + NormalDist().inv_cdf(1 - failures) * math.sqrt(spread)) ** 3


def kolmogorov_distance(values: HostArray, cdf: HostArray) -> float:
    """Return the largest distance between the values' empirical distribution and `cdf`, which is given at them."""
    cdf = cdf[np.argsort(values)]
    steps = np.arange(len(cdf) + 1) / len(cdf)
    return float(max(np.max(steps[1:] - cdf), np.max(cdf - steps[:-1])))


def kolmogorov_limit(n: int, failures: float = 1e-6) -> float:
    """Return a distance that n independent values exceed with probability below `failures` (Massart 1990)."""
    return math.sqrt(math.log(2 / failures) / (2 * n))


# What a number depends on.


@given(
    seed=seed,
    purpose=purpose,
    step=word,
    layer=st.integers(0, 2**24 - 1),
    samples=st.lists(word, min_size=1, max_size=3),
    n=st.integers(1, 9),
)
def test_counter_is_laid_out_as_documented(
    seed: int, purpose: Purpose, step: int, layer: int, samples: list[int], n: int
) -> None:
    """For any seed and stream: element e of sample i is word e % 4 of counter (e // 4, i, step, purpose and layer)."""
    bits = Random(xp, seed).bits(purpose, step, samples, (n,), layer)
    assert bits.dtype == np.int64
    for row, sample in zip(bits, samples, strict=True):
        for e, value in enumerate(row):
            counter = [np.asarray([c]) for c in (e // 4, sample, step, purpose.value | layer << 8)]
            assert value == philox_4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))[e % 4][0]


@pytest.mark.slow
@given(kind=kind, seed=seed, step=word, samples=st.lists(word, max_size=6), shape=shape)
def test_sample_does_not_depend_on_its_batch(
    kind: str, seed: int, step: int, samples: list[int], shape: tuple[int, ...]
) -> None:
    """For any batch of samples, repeated ones too, of any shape: each is what it is when drawn alone."""
    random = Random(xp, seed)
    batch = DRAWS[kind](random, Purpose.NOISE, step, samples, shape)
    assert batch.shape == (len(samples), *shape)
    for row, sample in zip(batch, samples, strict=True):
        np.testing.assert_array_equal(row, DRAWS[kind](random, Purpose.NOISE, step, [sample], shape)[0])


@given(kind=kind, seed=seed, shape=shape, more=st.integers(0, 9))
def test_element_does_not_depend_on_the_shape(kind: str, seed: int, shape: tuple[int, ...], more: int) -> None:
    """For any shape and any longer sample: the first elements in C order are the same."""
    random, size = Random(xp, seed), math.prod(shape)
    short = DRAWS[kind](random, Purpose.NOISE, 3, [0, 7], shape)
    long = DRAWS[kind](random, Purpose.NOISE, 3, [0, 7], (size + more,))
    np.testing.assert_array_equal(short.reshape(2, size), long[:, :size])


@pytest.mark.parametrize("samples", [range(3), (0, 1, 2), np.arange(3), np.arange(3, dtype=np.uint8)])
def test_samples_may_be_any_sequence(samples: Any) -> None:
    random = Random(xp, 1)
    expected = random.bits(Purpose.NOISE, 0, [0, 1, 2], (5,))
    np.testing.assert_array_equal(random.bits(Purpose.NOISE, 0, samples, (5,)), expected)


def test_purposes_fit_their_byte_and_keep_their_values() -> None:
    """The values are part of every seed's meaning, so a checkpoint's future depends on them."""
    assert len({int(p) for p in Purpose}) == len(Purpose)
    assert all(0 <= p < 256 for p in Purpose)
    assert (Purpose.INIT, Purpose.NOISE, Purpose.SAMPLE_STEP, Purpose.SPLIT) == (0, 3, 9, 13)


def all_streams(n: int) -> HostArray:
    """Return n normal numbers each of streams that differ from a first one in one thing only."""
    base = {"seed": 5, "purpose": Purpose.INIT, "step": 11, "layer": 0, "sample": 6}
    changes = [
        {},
        *({"purpose": p} for p in Purpose if p != Purpose.INIT),
        *({"seed": s} for s in (4, 6, 5 + 2**32)),
        *({"step": s} for s in (10, 12, 6)),
        *({"layer": k} for k in (1, 2, 256)),
        *({"sample": i} for i in (5, 7, 11)),
    ]

    def draw(seed: int, purpose: Purpose, step: int, layer: int, sample: int) -> HostArray:
        return np.asarray(Random(xp, seed).normal(purpose, step, [sample], (n,), layer)[0], np.float64)

    return np.stack([draw(**(base | change)) for change in changes])


@pytest.mark.parametrize("power", [1, 2])
def test_streams_are_uncorrelated(power: int) -> None:
    """Streams that differ in one thing, and one stream shifted by up to eight elements, in values and in squares.

    The correlation of n independent pairs is about normal with deviation 1 / sqrt(n); the bound holds for all pairs at
    once (Bonferroni). It is 0.023: a repeated or mirrored stream is far outside.
    """
    n = 2**16
    streams = all_streams(n + 8)
    shifted = np.stack([streams[0][k : k + n] for k in range(1, 9)])
    rows = np.concatenate([streams[:, :n], shifted]) ** power
    pairs = len(rows) * (len(rows) - 1) // 2
    correlations = np.abs(np.corrcoef(rows) - np.eye(len(rows)))
    assert correlations.max() < z_of(1e-6 / pairs) / math.sqrt(n)


# The same on every backend.


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
@pytest.mark.parametrize("kind", DRAWS)
def test_all_backends_draw_the_same(numpy_backend: Backend, other_backend: Backend, kind: str, seed: int) -> None:
    """Exactly; normal numbers to the last place of float32, as logarithms and cosines are rounded differently."""
    stream = (Purpose.NOISE, 2**32 - 1, [3, 0, 2**32 - 1], (17, 3, 5))
    expected = DRAWS[kind](numpy_backend.random(seed), *stream, layer=2**24 - 1)
    array = DRAWS[kind](other_backend.random(seed), *stream, layer=2**24 - 1)
    actual = other_backend.to_numpy(array)
    assert actual.dtype == expected.dtype
    if kind == "normal":
        np.testing.assert_array_max_ulp(actual, expected, maxulp=1)
    else:
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_all_backends_permute_the_same(numpy_backend: Backend, other_backend: Backend, n: int) -> None:
    expected = numpy_backend.random(3).permutation(Purpose.ORDER, 2, n)
    actual = other_backend.to_numpy(other_backend.random(3).permutation(Purpose.ORDER, 2, n))
    np.testing.assert_array_equal(actual, expected, strict=True)


def test_all_backends_take_host_samples_of_any_layout(other_backend: Backend) -> None:
    """Read-only and reversed index arrays, and none at all."""
    samples = np.arange(4)[::-1]
    samples.flags.writeable = False
    random = other_backend.random(0)
    reversed_rows = other_backend.to_numpy(random.bits(Purpose.NOISE, 0, samples, (2,)))
    rows = other_backend.to_numpy(random.bits(Purpose.NOISE, 0, range(4), (2,)))
    np.testing.assert_array_equal(reversed_rows, rows[::-1])
    assert random.normal(Purpose.NOISE, 0, [], (2, 3)).shape == (0, 2, 3)


def test_normal_is_box_and_muller_of_the_bits() -> None:
    """Each pair of words, through Python's own float64 functions, to the last place of float32."""
    stream = (Purpose.NOISE, 1, [0, 1], (10, 10))
    words = Random(xp, 9).bits(*stream).reshape(-1, 2).tolist()
    radii = [math.sqrt(-2 * math.log((a + 0.5) / 2**32)) for a, _ in words]
    angles = [2 * math.pi * b / 2**32 for _, b in words]
    expected = [[r * math.cos(v), r * math.sin(v)] for r, v in zip(radii, angles, strict=True)]
    actual = Random(xp, 9).normal(*stream)
    assert actual.dtype == np.float32
    np.testing.assert_array_max_ulp(actual.reshape(-1, 2), np.asarray(expected, np.float32), maxulp=1)


def test_extreme_words_keep_their_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words at the ends: normal keeps its bound, uniform is below 1, integers below high, rates 0 and 1 are exact."""
    ends = (0, 1, 2**30, 2**31, 2**32 - 1)
    pairs = np.asarray(list(itertools.product(ends, ends)))[None]
    words = (pairs[..., 0], pairs[..., 1], pairs[..., 1], pairs[..., 0])
    monkeypatch.setattr("tinyddpm.backend.random.philox_4x32", lambda counter, key: words)
    random, stream = Random(xp, 0), (Purpose.NOISE, 0, [0], (100,))
    z = random.normal(*stream)
    assert z.max() == np.float32(math.sqrt(66 * math.log(2)))
    assert -z.min() <= z.max()
    assert random.uniform(*stream).min() == 0
    assert random.uniform(*stream).max() == np.float32(1 - 2**-24)
    assert random.integers(*stream, 2**31).max() == 2**31 - 1
    assert random.integers(*stream, 7).max() == 6
    assert np.all(random.keep_mask(*stream, 0.0))
    assert not np.any(random.keep_mask(*stream, 1.0))


def test_normal_is_normal() -> None:
    """Half a million numbers: Kolmogorov's distance, and four moments, each within its bound."""
    z = Random(xp, 1).normal(Purpose.NOISE, 0, range(128), (4096,)).reshape(-1).astype(np.float64)
    n = z.size
    cdf = np.asarray([0.5 * math.erfc(-x / math.sqrt(2)) for x in z.tolist()])
    assert kolmogorov_distance(z, cdf) < kolmogorov_limit(n)
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(np.mean(z**power) - mean) < z_of(1e-6) * math.sqrt(variance / n), f"moment {power}"


def test_uniform_is_uniform() -> None:
    """Half a million numbers: Kolmogorov's distance. Each is a multiple of 2**-24."""
    u = Random(xp, 2).uniform(Purpose.NOISE, 0, range(128), (4096,)).reshape(-1)
    assert u.dtype == np.float32
    assert np.all((u >= 0) & (u < 1))
    np.testing.assert_array_equal(u.astype(np.float64) * 2**24 % 1, 0)
    assert kolmogorov_distance(u, u.astype(np.float64)) < kolmogorov_limit(u.size)


@pytest.mark.parametrize("high", [2, 3, 10, 1000])
def test_integers_are_uniform(high: int) -> None:
    """A quarter of a million numbers: chi-square over all values."""
    numbers = Random(xp, 3).integers(Purpose.TIME, 0, range(256), (1024,), high)
    assert numbers.dtype == np.int64
    counts = np.bincount(numbers.reshape(-1), minlength=high)
    assert len(counts) == high
    expected = numbers.size / high
    assert np.sum((counts - expected) ** 2) / expected < chi_square_limit(high - 1)


@given(seed=seed, high=st.integers(1, 2**31) | st.sampled_from([1, 2**31 - 1, 2**31]))
def test_integers_are_the_high_part_of_the_product(seed: int, high: int) -> None:
    """For any high: bits * high / 2**32 rounded down, in unbounded integers."""
    random, stream = Random(xp, seed), (Purpose.TIME, 0, range(4), (8,))
    expected = [bits * high >> 32 for bits in random.bits(*stream).reshape(-1).tolist()]
    assert random.integers(*stream, high).reshape(-1).tolist() == expected


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_keep_mask_drops_at_its_rate(rate: float) -> None:
    """A quarter of a million elements: the share of those dropped, which is exact for rates 0 and 1."""
    mask = Random(xp, 4).keep_mask(Purpose.DROPOUT, 0, range(64), (4096,), rate)
    assert mask.dtype == np.bool_
    assert abs((1 - mask.mean()) - rate) <= z_of(1e-6) * math.sqrt(rate * (1 - rate) / mask.size)


@given(seed=seed, step=word, n=st.integers(0, 300))
def test_permutation_holds_every_number_once(seed: int, step: int, n: int) -> None:
    """For any seed, step and n."""
    order = Random(xp, seed).permutation(Purpose.ORDER, step, n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


@given(keys=st.lists(st.tuples(st.sampled_from([0, 1, 2**31, 2**32 - 1]), st.sampled_from([0, 1, 2**32 - 1]))))
def test_permutation_is_the_order_of_its_keys(keys: list[tuple[int, int]]) -> None:
    """For any keys, ties among them: their order as signed 64-bit numbers, equal ones as they come."""

    class Given(Random):
        def bits(self, purpose: Purpose, step: int, samples: Any, shape: tuple[int, ...], layer: int = 0) -> HostArray:
            assert shape == (len(keys), 2)
            return np.asarray(keys, np.int64).reshape(1, -1, 2)

    expected = sorted(range(len(keys)), key=lambda i: (keys[i][0] - 2**32 * (keys[i][0] >= 2**31), keys[i][1]))
    assert Given(xp, 0).permutation(Purpose.ORDER, 0, len(keys)).tolist() == expected


@pytest.mark.slow
def test_permutations_are_equally_frequent() -> None:
    """The 24 orders of four numbers over 4800 steps: chi-square."""
    random = Random(xp, 6)
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for step in range(4800):
        counts[tuple(random.permutation(Purpose.ORDER, step, 4).tolist())] += 1
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < chi_square_limit(23)


def test_places_in_a_long_permutation_are_uniform() -> None:
    """Where number i of 50,000 goes: Kolmogorov's distance for the first thousand numbers."""
    order = Random(xp, 7).permutation(Purpose.ORDER, 0, 50_000)
    places = np.argsort(order)[:1000] / 50_000
    assert kolmogorov_distance(places, places) < kolmogorov_limit(1000)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_refuses_a_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ConfigError, match=rf"^seed {seed} is not in \[0, 2\*\*64\)$"):
        Random(xp, seed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, r"step -1 is not in \[0, 2\*\*32\)"),
        ({"step": 2**32}, r"step 4294967296 is not in \[0, 2\*\*32\)"),
        ({"layer": -1}, r"layer -1 is not in \[0, 2\*\*24\)"),
        ({"layer": 2**24}, r"layer 16777216 is not in \[0, 2\*\*24\)"),
        ({"samples": [0, -1]}, r"sample -1 is not in \[0, 2\*\*32\)"),
        ({"samples": [2**32, 0]}, r"sample 4294967296 is not in \[0, 2\*\*32\)"),
        ({"samples": [0.5]}, r"type float64 are no list of indices"),
        ({"samples": [[1]]}, r"shape \(1, 1\) .* no list of indices"),
        ({"samples": [True]}, r"type bool are no list of indices"),
    ],
)
@pytest.mark.parametrize("kind", DRAWS)
def test_refuses_a_stream_out_of_range(kind: str, change: dict[str, Any], message: str) -> None:
    stream = {"step": 0, "samples": [0], "layer": 0} | change
    with pytest.raises(ConfigError, match=message):
        DRAWS[kind](Random(xp, 0), Purpose.NOISE, stream["step"], stream["samples"], (2,), layer=stream["layer"])


@pytest.mark.parametrize("high", [0, -3, 2**31 + 1])
def test_refuses_an_unusable_high(high: int) -> None:
    with pytest.raises(ConfigError, match=f"high {high} "):
        Random(xp, 0).integers(Purpose.TIME, 0, [0], (), high)


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_refuses_a_rate_that_is_no_probability(rate: float) -> None:
    with pytest.raises(ConfigError, match=f"rate {rate} "):
        Random(xp, 0).keep_mask(Purpose.DROPOUT, 0, [0], (), rate)


def test_refuses_a_negative_length() -> None:
    with pytest.raises(ConfigError, match="n -1 "):
        Random(xp, 0).permutation(Purpose.ORDER, 0, -1)
