"""Keys that are not there: they count for nothing, in every implementation that there is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from helpers.cuda_shim import COMPILER, ShimBackend
from tinyddpm.backend import Backend, load_backend
from tinyddpm.ops import Operations, load_operations


def kernels() -> Operations:
    if COMPILER is None:
        pytest.skip("there is no C++ compiler to run the kernels with")
    return load_operations(ShimBackend(), training=True)


def of_backend(name: str) -> Callable[[], Operations]:
    def make() -> Operations:
        pytest.importorskip(name)
        return load_operations(load_backend(name), training=True)

    return make


MADE: dict[str, Callable[[], Operations]] = {
    "reference": lambda: Operations(load_backend("numpy"), training=True),
    "numpy": of_backend("numpy"),
    "numba": of_backend("numba"),
    "torch": of_backend("torch"),
    "kernels": kernels,
}


@pytest.fixture(params=MADE)
def ops(request: pytest.FixtureRequest) -> Operations:
    return MADE[request.param]()


def results(ops: Operations, *arrays: np.ndarray, mask: np.ndarray | None, heads: int = 2) -> list[np.ndarray]:
    """Return y, dq, dk and dv on the host."""
    backend: Backend = ops.backend
    with backend.scope():
        q, k, v, dy = map(backend.asarray, arrays)
        y, saved = ops.attention(q, k, v, heads, None if mask is None else backend.asarray(mask))
        return [backend.to_numpy(a).copy() for a in (y, *ops.attention_backward(saved, dy))]


@pytest.fixture
def arrays(rng: np.random.Generator) -> list[np.ndarray]:
    shapes = [(3, 5, 8), (3, 9, 8), (3, 9, 8), (3, 5, 8)]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


MASK = np.arange(9) < np.asarray([[9], [4], [1]])


@pytest.mark.parametrize("other", [7.0, -1e30, np.inf, np.nan])
def test_what_stands_in_the_place_of_an_absent_key_changes_no_bit(
    ops: Operations, arrays: list[np.ndarray], other: float
) -> None:
    """Neither in y nor in a gradient; those of its key and value are 0."""
    before = results(ops, *arrays, mask=MASK)
    q, k, v, dy = arrays
    k, v = (np.where(MASK[:, :, None], a, np.float32(other)) for a in (k, v))
    for found, expected in zip(results(ops, q, k, v, dy, mask=MASK), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    for gradient in before[2:]:
        assert not gradient[~MASK].any()
        assert gradient[MASK].any()


def test_the_other_samples_change_no_bit(ops: Operations, arrays: list[np.ndarray], rng: np.random.Generator) -> None:
    """Of a sample with absent keys, whatever its neighbours and their masks."""
    before = results(ops, *arrays, mask=MASK)
    others = [np.where(np.arange(3)[:, None, None] == 1, a, rng.standard_normal(a.shape, np.float32)) for a in arrays]
    mask = np.where(np.arange(3)[:, None] == 1, MASK, True)
    for found, expected in zip(results(ops, *others, mask=mask), before, strict=True):
        np.testing.assert_array_equal(found[1], expected[1])


def test_a_sample_whose_keys_are_all_absent_gets_zeros(ops: Operations, arrays: list[np.ndarray]) -> None:
    """And so are its gradients; the others have what they have without it."""
    mask = MASK.copy()
    mask[1] = False
    before = results(ops, *arrays, mask=MASK)
    for found, expected in zip(results(ops, *arrays, mask=mask), before, strict=True):
        assert not found[1].any()
        np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])


def test_absent_keys_are_as_if_they_were_left_out(ops: Operations, arrays: list[np.ndarray]) -> None:
    """And a mask that is True throughout is none."""
    q, k, v, dy = (a[1:2] for a in arrays)
    y, dq, dk, dv = results(ops, q, k, v, dy, mask=MASK[1:2])
    of_four = results(ops, q, k[:, :4], v[:, :4], dy, mask=None)
    for found, expected in zip((y, dq, dk[:, :4], dv[:, :4]), of_four, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    for found, expected in zip(
        results(ops, *arrays, mask=np.ones((3, 9), bool)), results(ops, *arrays, mask=None), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
