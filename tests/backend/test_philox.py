"""Philox 4x32-10 against its published vectors and against Python's own integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.backend import Backend
from tinyddpm.backend.philox import philox_4x32, split

pytestmark = pytest.mark.filterwarnings("error")

Words = tuple[int, ...]

# The lines `philox4x32 10` of Random123's file kat_vectors: counter, key, result.
KNOWN_ANSWERS = [
    "00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1",
]

word = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1])


def draw(backend: Backend, counters: list[Words], key: tuple[int, int]) -> list[Words]:
    """Return the words of each counter, computed by `backend`."""
    columns = tuple(backend.asarray(column, backend.xp.int64) for column in zip(*counters, strict=True))
    words = [backend.to_numpy(array) for array in philox_4x32(columns, key)]
    assert {array.dtype for array in words} == {np.dtype(np.int64)}
    return [tuple(int(value) for value in row) for row in zip(*words, strict=True)]


def reference(counter: Words, key: tuple[int, int]) -> Words:
    """Return the words of one counter, as the paper's figure 4 and section 3.2 tell, in unbounded integers."""
    left, right = (counter[0], counter[2]), (counter[1], counter[3])
    for number in range(10):
        keys = [(k + number * weyl) % 2**32 for k, weyl in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)]
        high, low = zip(
            *(divmod(m * w, 2**32) for m, w in zip((0xD2511F53, 0xCD9E8D57), left, strict=True)), strict=True
        )
        left, right = (high[1] ^ right[0] ^ keys[0], high[0] ^ right[1] ^ keys[1]), (low[1], low[0])
    return left[0], right[0], left[1], right[1]


def known_answer(line: str) -> tuple[Words, tuple[int, int], Words]:
    values = [int(text, 16) for text in line.split()]
    return tuple(values[:4]), (values[4], values[5]), tuple(values[6:])


@pytest.mark.parametrize("line", KNOWN_ANSWERS)
def test_known_answers(numpy_backend: Backend, line: str) -> None:
    counter, key, expected = known_answer(line)
    assert draw(numpy_backend, [counter], key) == [expected]
    assert reference(counter, key) == expected


@pytest.mark.parametrize("line", KNOWN_ANSWERS)
def test_known_answers_elsewhere(other_backend: Backend, line: str) -> None:
    counter, key, expected = known_answer(line)
    assert draw(other_backend, [counter], key) == [expected]


@pytest.mark.slow
@given(counters=st.lists(st.tuples(word, word, word, word), min_size=1, max_size=9), key=st.tuples(word, word))
def test_equals_the_reference(numpy_backend: Backend, counters: list[Words], key: tuple[int, int]) -> None:
    """For any counters and any key."""
    assert draw(numpy_backend, counters, key) == [reference(counter, key) for counter in counters]


@pytest.mark.slow
@given(counters=st.lists(st.tuples(word, word, word, word), min_size=1, max_size=9), key=st.tuples(word, word))
def test_equals_the_reference_elsewhere(other_backend: Backend, counters: list[Words], key: tuple[int, int]) -> None:
    """For any counters and any key."""
    assert draw(other_backend, counters, key) == [reference(counter, key) for counter in counters]


@given(words=st.lists(word, min_size=4, max_size=4), key=st.tuples(word, word))
def test_broadcasts_its_counter(words: list[int], key: tuple[int, int]) -> None:
    """For any words: axes that only some words have give what the full counters give."""
    shapes = [(3, 1, 1), (1, 2, 1), (1, 1, 1), (1, 1, 5)]
    counter = tuple(
        (np.arange(np.prod(shape), dtype=np.int64) + w).reshape(shape) % 2**32
        for w, shape in zip(words, shapes, strict=True)
    )
    full = tuple(np.ascontiguousarray(c) for c in np.broadcast_arrays(*counter))
    for lazy, eager in zip(philox_4x32(counter, key), philox_4x32(full, key), strict=True):
        np.testing.assert_array_equal(lazy, eager, strict=True)


def test_split_gives_the_low_word_first() -> None:
    assert split(0x0123456789ABCDEF) == (0x89ABCDEF, 0x01234567)
