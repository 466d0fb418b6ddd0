"""Winograd's filtering: the identity itself, the convolution, and backwards that are its transposes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.backend import load_backend
from tinyddpm.ops import Operations
from tinyddpm.ops.cpu import winograd
from tinyddpm.ops.numpy_operations import NumpyOperations

REFERENCE = Operations(load_backend("numpy"), training=True)
SIDES, CHANNELS, SEEDS = st.integers(1, 13), st.integers(1, 5), st.integers(0, 2**32 - 1)


@given(
    d=st.lists(st.integers(-1000, 1000), min_size=6, max_size=6),
    g=st.lists(st.integers(-24, 24), min_size=3, max_size=3),
)
def test_identity(d: list[int], g: list[int]) -> None:
    """Over integers: Aᵀ((G g) ⊙ (Bᵀ d)) is the correlation of six inputs with three taps."""
    a_t, g_matrix, b_t = (np.asarray(m, np.float64) for m in (winograd.A_T, winograd.G, winograd.B_T))
    found = a_t @ ((g_matrix @ g) * (b_t @ d))
    np.testing.assert_allclose(found, np.correlate(d, g, "valid"), atol=1e-8)


@given(n=st.integers(1, 5), h=SIDES, w=SIDES, c_in=CHANNELS, c_out=CHANNELS, seed=SEEDS)
def test_convolution_and_gradients(n: int, h: int, w: int, c_in: int, c_out: int, seed: int) -> None:
    """Over batch sizes, sides that tiles cover and do not, and channels: the reference's, in float64 to 1e-11."""
    rng = np.random.default_rng(seed)
    x, weights = rng.standard_normal((n, h, w, c_in)), rng.standard_normal((3, 3, c_in, c_out))
    b = rng.standard_normal(c_out)
    y, saved = REFERENCE.conv2d(x, weights, b)
    ours, v = winograd.convolve(x, winograd.transformed(weights), b, keep=True)
    np.testing.assert_allclose(ours, y, atol=1e-11)
    dy = rng.standard_normal(y.shape)
    dx, dw, _ = REFERENCE.conv2d_backward(saved, dy)
    for ours, reference in zip(winograd.convolve_backward(v, weights, dy), (dx, dw), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-11, atol=1e-10)


def y_dx_dw(x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, ...]:
    y, v = winograd.convolve(x, winograd.transformed(w), np.zeros(w.shape[3], w.dtype), keep=True)
    return y, *winograd.convolve_backward(v, w, dy)


@pytest.mark.parametrize(("side", "c"), [(32, 32), (28, 64), (7, 32), (16, 256)])
def test_float32_is_off_by_a_few_1e_5_at_most(side: int, c: int) -> None:
    """Against float64, of the largest element, at the sizes it is used for: outputs and gradients below 3e-5."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 8, side, side, c))
    w = rng.standard_normal((3, 3, c, c)) / np.sqrt(9 * c)
    found, exact = (y_dx_dw(*arrays) for arrays in ([a.astype(np.float32) for a in (x, w, dy)], [x, w, dy]))
    for ours, reference in zip(found, exact, strict=True):
        assert ours.dtype == np.float32
        assert np.abs(ours - reference).max() < 3e-5 * np.abs(reference).max()


def test_it_is_used_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide layers on large maps, but neither the image's own channel, tiny maps, a stride, nor a 1×1 kernel."""
    used = []
    convolve = winograd.convolve
    monkeypatch.setattr(
        winograd, "convolve", lambda x, *rest, **keep: used.append(x.shape) or convolve(x, *rest, **keep)
    )
    ops = NumpyOperations(load_backend("numpy"))
    for side, c_in, c_out, kernel, stride in [
        (32, 64, 64, 3, 1), (32, 1, 64, 3, 1), (4, 256, 256, 3, 1), (32, 64, 64, 3, 2), (32, 64, 64, 1, 1),
        (5, 64, 64, 3, 1), (32, 32, 32, 3, 1),
    ]:  # fmt: skip
        x, w = np.ones((8, side, side, c_in), np.float32), np.ones((kernel, kernel, c_in, c_out), np.float32)
        ops.conv2d(x, w, np.zeros(c_out, np.float32), stride)
    assert used == [(8, 32, 32, 64), (8, 32, 32, 32)]
