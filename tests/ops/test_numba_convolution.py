"""Compiled convolution against the reference, on random shapes, by each algorithm and across the borders of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.backend import load_backend
from tinyddpm.backend.workers import Workers
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.numba import patches, products, sharing, winograd
from tinyddpm.ops.numba_operations import NumbaOperations

NUMBA = load_backend("numba")
REFERENCE, OURS = Operations(NUMBA, training=True), NumbaOperations(NUMBA, training=True)
NUMBERS, SIDES, SEEDS = st.integers(1, 5), st.integers(1, 19), st.integers(0, 2**32 - 1)
CHANNELS = st.one_of(st.integers(1, 20), st.sampled_from([32, 33, 64, 70]))
TYPES = st.sampled_from([np.float32, np.float64])


def close(ours: np.ndarray, reference: np.ndarray) -> None:
    """Results differ by rounding alone, Winograd's transforms included: by 2e-5 of the largest element, or by 1e-12."""
    assert ours.dtype == reference.dtype
    assert ours.shape == reference.shape
    bound = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}[ours.dtype]
    np.testing.assert_allclose(ours, reference, rtol=0, atol=bound * max(1.0, np.abs(reference).max()))


def problem(
    seed: int, dtype: type, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int = 1
) -> tuple[np.ndarray, ...]:
    """Return x, w, b, dy, and the reference's y, dx, dw and db."""
    rng = np.random.default_rng(seed)
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape, w_shape[3:]))
    y, saved = REFERENCE.conv2d(x, w, b, stride)
    dy = rng.standard_normal(y.shape).astype(dtype)
    return x, w, b, dy, y, *REFERENCE.conv2d_backward(saved, dy)


def test_these_are_the_numba_backends() -> None:
    assert type(load_operations(NUMBA)) is NumbaOperations


@pytest.mark.slow
@given(n=NUMBERS, h=SIDES, w=SIDES, c_in=CHANNELS, c_out=CHANNELS, dtype=TYPES, seed=SEEDS)
def test_winograd(n: int, h: int, w: int, c_in: int, c_out: int, dtype: type, seed: int) -> None:
    """Over sides that tiles cover and do not, channels that fill registers and panels and do not; both types.

    A residual is added as by itself, bit by bit.
    """
    x, weights, b, dy, y, *gradients = problem(seed, dtype, (n, h, w, c_in), (3, 3, c_in, c_out))
    found = winograd.convolve(x, winograd.transformed(weights), b)
    close(found, y)
    np.testing.assert_array_equal(winograd.convolve(x, winograd.transformed(weights), b, dy), found + dy)
    for ours, reference in zip(winograd.convolve_backward(x, weights, dy), gradients, strict=True):
        close(ours, reference)


@pytest.mark.slow
@given(
    n=NUMBERS, h=SIDES, w=SIDES, c_in=CHANNELS, c_out=CHANNELS, kh=st.integers(1, 5), kw=st.integers(1, 5),
    stride=st.integers(1, 3), dtype=TYPES, seed=SEEDS,
)  # fmt: skip
def test_patches(
    n: int, h: int, w: int, c_in: int, c_out: int, kh: int, kw: int, stride: int, dtype: type, seed: int
) -> None:
    """Over kernels of any size, strides and channels; both types, and both ways where there are two."""
    x, weights, b, dy, y, *gradients = problem(seed, dtype, (n, h, w, c_in), (kh, kw, c_in, c_out), stride)
    found = patches.convolve(x, weights, b, stride)
    close(found, y)
    np.testing.assert_array_equal(patches.convolve(x, weights, b, stride, dy), found + dy)
    if stride == 1 and kh % 2 and kw % 2:
        found = patches.convolve_to_few(x, weights, b)
        close(found, y)
        np.testing.assert_array_equal(patches.convolve_to_few(x, weights, b, dy), found + dy)
    for ours, reference in zip(patches.convolve_backward(x, weights, dy, stride), gradients, strict=False):
        close(ours, reference)


@given(
    rows=st.integers(1, 20), terms=st.integers(1, 40), panels=st.integers(1, 3), transposed=st.booleans(),
    adds=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_products(rows: int, terms: int, panels: int, transposed: bool, adds: bool, seed: int) -> None:
    """Over rows of every remainder, from a matrix and from its transpose, into a panel or added to it."""
    rng = np.random.default_rng(seed)
    width = products.panel_width(8)
    a, b = rng.standard_normal((rows, terms)), rng.standard_normal((terms, panels * width))
    start = rng.standard_normal((rows, panels * width))
    c = start.copy()
    layout, steps = (a.T.copy(), (1, rows)) if transposed else (a, (terms, 1))
    for p in range(panels):
        products.multiply(
            c.reshape(-1), p * width, panels * width, layout.reshape(-1), 0, *steps,
            b.reshape(-1), p * width, panels * width, rows, terms, int(adds),
        )  # fmt: skip
    np.testing.assert_allclose(c, a @ b + adds * start, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("side", "c"), [(32, 32), (28, 64), (7, 32), (16, 256)])
def test_float32_is_off_by_a_few_1e_5_at_most(side: int, c: int) -> None:
    """Against float64, of the largest element, at the sizes it is used for: outputs and gradients below 3e-5."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 8, side, side, c))
    w, b = rng.standard_normal((3, 3, c, c)) / np.sqrt(9 * c), rng.standard_normal(c)
    found, exact = ([a.astype(dtype) for a in (x, w, b, dy)] for dtype in (np.float32, np.float64))
    for ours, reference in zip(_y_and_gradients(*found), _y_and_gradients(*exact), strict=True):
        assert ours.dtype == np.float32
        assert np.abs(ours - reference).max() < 3e-5 * np.abs(reference).max()


def _y_and_gradients(x: np.ndarray, w: np.ndarray, b: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, ...]:
    return winograd.convolve(x, winograd.transformed(w), b), *winograd.convolve_backward(x, w, dy)


@pytest.mark.parametrize(
    ("side", "c_in", "c_out", "kernel", "stride", "algorithm"),
    [
        (28, 32, 32, 3, 1, "winograd"), (7, 64, 64, 3, 1, "winograd"), (32, 64, 3, 3, 1, "patches of y"),
        (28, 32, 32, 3, 2, "rows of patches"), (28, 32, 32, 5, 1, "rows of patches"), (28, 32, 1, 3, 1, "patches of y"),
    ],
)  # fmt: skip
def test_what_is_chosen_is_what_costs_least(
    side: int, c_in: int, c_out: int, kernel: int, stride: int, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all a U-Net's layers; what is said to be chosen is what is done."""
    used = []
    for module, name, said in (
        (winograd, "convolve", "winograd"),
        (patches, "convolve", "rows of patches"),
        (patches, "convolve_to_few", "patches of y"),
    ):
        function = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *all_, said=said, function=function: used.append(said) or function(*all_)
        )
    x, w = np.ones((16, side, side, c_in), np.float32), np.ones((kernel, kernel, c_in, c_out), np.float32)
    OURS.conv2d(x, w, np.zeros(c_out, np.float32), stride)
    costs = OURS.conv2d_costs(x.shape, w.shape, stride)
    assert used == [algorithm] == [min(costs, key=costs.__getitem__)]


@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(32, 32, 1), (32, 1, 1), (1, 32, 1), (32, 32, 2)])
def test_an_image_on_idle_threads_is_the_same(
    c_in: int, c_out: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image is shared by rows among threads; each row is computed as without them."""
    x, w, b, dy, *_ = problem(0, np.float32, (1, 13, 21, c_in), (3, 3, c_in, c_out), stride)
    workers = Workers(3)
    monkeypatch.setattr(sharing, "WORTH", 0)

    def y_and_gradients(_: int = 0) -> tuple[np.ndarray, ...]:
        y, saved = OURS.conv2d(x, w, b, stride, dy)
        return y, *OURS.conv2d_backward(saved, dy)

    (spread,) = workers.map(y_and_gradients, [0])
    for ours, alone in zip(spread, y_and_gradients(), strict=True):
        close(ours, alone)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(32, 32, 1), (32, 1, 1), (32, 32, 2)])
def test_what_is_not_finite_comes_through(c_in: int, c_out: int, stride: int, bad: float) -> None:
    """One such pixel of x spoils what meets it in the reference, at least, and no other image."""
    x, w, b, *_ = problem(0, np.float32, (2, 9, 9, c_in), (3, 3, c_in, c_out), stride)
    x[0, 4, 4, 0] = bad
    ours, reference = OURS.conv2d(x, w, b, stride)[0], REFERENCE.conv2d(x, w, b, stride)[0]
    assert not np.isfinite(ours[~np.isfinite(reference)]).any()
    assert np.isfinite(ours[1]).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_any_memory_will_do(stride: int) -> None:
    """Arrays that are read-only, not contiguous or turned are taken as what they hold, and not written to."""
    x, w, b, dy, y, *gradients = problem(0, np.float32, (2, 9, 9, 32), (3, 3, 32, 32), stride)

    def odd(a: np.ndarray) -> np.ndarray:
        strange = np.repeat(a, 2, axis=-1)[..., ::2]
        strange.flags.writeable = False
        return strange

    found, saved = OURS.conv2d(odd(x), odd(w), odd(b), stride, odd(y))
    close(found, 2 * y)
    for ours, reference in zip(OURS.conv2d_backward(saved, odd(dy)), gradients, strict=True):
        close(ours, reference)


def test_inference_transforms_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network without training, each layer once for all batches; in training each time."""
    calls = []
    transformed = winograd.transformed
    monkeypatch.setattr(winograd, "transformed", lambda w: calls.append(1) or transformed(w))
    rng = np.random.default_rng(1)
    x, b = rng.standard_normal((8, 16, 16, 32), np.float32), np.zeros(32, np.float32)
    buffer, shapes = rng.standard_normal(2 * 9 * 32 * 32, np.float32), [(3, 3, 32, 32)] * 2
    for ops, expected in ((NumbaOperations(NUMBA), 2), (OURS, 6)):
        calls.clear()
        layers = ops.weights(buffer, shapes)
        for _ in range(3):
            for w in layers:
                close(ops.conv2d(x, w, b)[0], REFERENCE.conv2d(x, w, b)[0])
        assert len(calls) == expected
