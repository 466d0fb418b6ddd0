"""The order of samples, and the way from bytes to the model and back."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tinyddpm.data.base import ArrayDataset, spread
from tinyddpm.data.batching import batch_indices, check_batch_size
from tinyddpm.errors import DataError
from tinyddpm.ops.images import flip_horizontally, from_model, to_model

COUNTS = st.integers(1, 60)
SEEDS = st.integers(0, 2**64 - 1)


@given(n=COUNTS, batch_size=st.integers(1, 70), epochs=st.integers(1, 4), seed=SEEDS)
def test_every_epoch_visits_every_sample_once(n: int, batch_size: int, epochs: int, seed: int) -> None:
    """Over data of 1 to 60 samples and batches of 1 to 70, so also where a batch spans several epochs."""
    steps = -(-epochs * n // batch_size)
    order = np.concatenate([batch_indices(n, batch_size, step, seed) for step in range(steps)])
    for epoch in order[: epochs * n].reshape(epochs, n):
        assert sorted(epoch.tolist()) == list(range(n))


@pytest.mark.slow
@given(n=COUNTS, a=st.integers(1, 20), b=st.integers(1, 20), seed=SEEDS)
def test_the_order_does_not_depend_on_the_batch_size(n: int, a: int, b: int, seed: int) -> None:
    """Over pairs of batch sizes: a batches of b are b batches of a."""
    by_a = np.concatenate([batch_indices(n, a, step, seed) for step in range(b)])
    by_b = np.concatenate([batch_indices(n, b, step, seed) for step in range(a)])
    np.testing.assert_array_equal(by_a, by_b)


@pytest.mark.slow
@given(n=COUNTS, batch_size=st.integers(1, 20), start=st.integers(0, 50), seed=SEEDS)
def test_the_order_does_not_depend_on_where_it_starts(n: int, batch_size: int, start: int, seed: int) -> None:
    """Over first steps: steps asked for backwards, or from the middle, are those of a straight run."""
    straight = [batch_indices(n, batch_size, step, seed) for step in range(start + 3)]
    for step in reversed(range(start, start + 3)):
        np.testing.assert_array_equal(batch_indices(n, batch_size, step, seed), straight[step])


@given(seed=st.integers(0, 2**64 - 2))
def test_epochs_and_seeds_have_orders_of_their_own(seed: int) -> None:
    """Over seeds: of 1000 samples, two orders agree by chance once in 1000!."""
    first, second = (batch_indices(1000, 1000, step, seed) for step in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, batch_indices(1000, 1000, 0, seed + 1))
    assert not np.array_equal(first, np.arange(1000))


def test_a_batch_may_not_be_larger_than_the_data() -> None:
    check_batch_size(10, 10)
    with pytest.raises(DataError, match=r"batch of 11 is more than the 10 samples .*: set --batch-size to at most 10"):
        check_batch_size(10, 11)


def test_all_bytes_come_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_model(pixels)
    assert x.dtype == np.float32
    assert x.min() == -1.0
    assert x.max() == 1.0
    np.testing.assert_array_equal(from_model(x), pixels)


def test_values_outside_are_clipped_and_others_rounded_to_nearest() -> None:
    pixels = np.array([-30.0, -0.4, 0.4, 0.6, 100.4, 100.6, 255.4, 300.0])
    expected = [0, 0, 0, 1, 100, 101, 255, 255]
    assert from_model((pixels / 127.5 - 1.0).astype(np.float32)).tolist() == expected


@pytest.mark.parametrize("xp", [array_api_strict, torch], ids=["strict", "torch"])
def test_other_backends_agree(xp: object, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (2, 3, 5, 3)).astype(np.uint8)
    mask = np.array([True, False])
    there = to_model(xp.asarray(pixels))  # type: ignore[attr-defined]
    flipped = flip_horizontally(there, xp.asarray(mask))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.asarray(flipped), flip_horizontally(to_model(pixels), mask))
    np.testing.assert_array_equal(
        np.asarray(from_model(flipped)), np.where(mask[:, None, None, None], pixels[:, :, ::-1], pixels)
    )


@pytest.mark.slow
@given(x=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=4, max_dims=4, max_side=5)), data=st.data())
def test_flips_mirror_the_columns_of_the_masked_images(x: np.ndarray, data: st.DataObject) -> None:
    """Over images of any shape and all masks: element by element, and twice is nothing."""
    assume(x.size)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(x), max_size=len(x))))
    flipped = flip_horizontally(x, mask)
    for i, j, k in np.ndindex(x.shape[:3]):
        np.testing.assert_array_equal(flipped[i, j, k], x[i, j, x.shape[2] - 1 - k if mask[i] else k])
    np.testing.assert_array_equal(flip_horizontally(flipped, mask), x)


@pytest.mark.parametrize(
    ("count", "indices"), [(1, [0]), (4, [0, 1, 3, 5]), (7, range(7)), (9, range(7)), (0, range(7))]
)
def test_some_samples_are_spread_over_all(count: int, indices: list[int]) -> None:
    assert spread(ArrayDataset(np.zeros((7, 2)), name="x"), count).tolist() == [*indices]
