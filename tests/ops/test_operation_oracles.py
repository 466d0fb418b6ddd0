"""Operations against their definitions written out in plain Python, and at the ends of float's range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.comparison import assert_close
from tinyddpm.backend import load_backend
from tinyddpm.ops import Operations
from tinyddpm.ops.convolution import same_padding


def naive_conv2d(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, top: int, left: int) -> np.ndarray:
    """The defining sum, one product at a time; outside the image, which begins at (top, left), is nothing."""
    n, height, width, c_in = x.shape
    k, _, _, c_out = w.shape
    y = np.zeros((n, math.ceil(height / stride), math.ceil(width / stride), c_out))
    for s, i, j, o in np.ndindex(*y.shape):
        y[s, i, j, o] = b[o]
        for p, q, c in np.ndindex(k, k, c_in):
            row, column = i * stride + p - top, j * stride + q - left
            if 0 <= row < height and 0 <= column < width:
                y[s, i, j, o] += x[s, row, column, c] * w[p, q, c, o]
    return y


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "top", "left"),
    [
        (3, 4, 3, 1, 1, 1),
        (1, 2, 3, 1, 1, 1),
        (4, 2, 3, 2, 0, 0),  # Even sides at stride 2: nothing above or to the left, as in DDPM.
        (5, 3, 3, 2, 1, 1),
        (4, 3, 3, 2, 0, 1),
        (2, 3, 1, 1, 0, 0),
    ],
)
def test_conv2d_is_the_defining_sum(
    ops: Operations, rng: np.random.Generator, height: int, width: int, kernel: int, stride: int, top: int, left: int
) -> None:
    """With the padding before the image stated by hand."""
    x, w, b = rng.normal(size=(2, height, width, 2)), rng.normal(size=(kernel, kernel, 2, 3)), rng.normal(size=3)
    y, _ = ops.conv2d(x, w, b, stride) if stride > 1 else ops.conv2d(x, w, b)
    assert_close(y, naive_conv2d(x, w, b, stride, top, left), 1e-14, "y")


@pytest.mark.parametrize(("height", "width", "kernel", "stride"), [(3, 4, 3, 1), (5, 8, 3, 2), (4, 7, 1, 3)])
def test_conv2d_costs_a_product_for_each_number_of_a_patch(height: int, width: int, kernel: int, stride: int) -> None:
    """By the reference, in 10⁹: all outputs, those at the edges too, times what a patch has, times the channels."""
    ops, x, w = Operations(load_backend("numpy")), (2, height, width, 5), (kernel, kernel, 5, 7)
    outputs = 2 * math.ceil(height / stride) * math.ceil(width / stride) * 7
    assert ops.conv2d_costs(x, w, stride) == {"patches": pytest.approx(outputs * kernel**2 * 5 / 1e9, rel=1e-12, abs=0)}
    assert ops.conv2d_costs(x, w) == ops.conv2d_costs(x, w, 1)


def test_the_norm_before_an_activation_takes_its_eps(ops: Operations, rng: np.random.Generator) -> None:
    x, scale, shift = rng.normal(size=(2, 3, 4)), rng.normal(size=4), rng.normal(size=4)
    normed, _ = ops.group_norm(x, scale, shift, 2, eps=0.5)
    assert_close(ops.group_norm_silu(x, scale, shift, 2, eps=0.5)[0], ops.silu(normed)[0], 1e-12, "y")


@given(size=st.integers(1, 200), kernel=st.integers(1, 9), stride=st.integers(1, 5))
def test_same_padding_is_the_least_that_covers(size: int, kernel: int, stride: int) -> None:
    """For all sizes, kernels and strides: ceil(size / stride) outputs, no zero too many, an odd one after."""
    before, after = same_padding(size, kernel, stride)

    def outputs(padding: int) -> int:
        return (size + padding - kernel) // stride + 1

    assert before >= 0
    assert after - before in (0, 1)
    assert outputs(before + after) == math.ceil(size / stride)
    assert before + after == 0 or outputs(before + after - 1) < math.ceil(size / stride)


def test_sinusoidal_is_ddpms_formula(ops: Operations) -> None:
    """DDPM's get_timestep_embedding: sines then cosines of t · exp(−ln(10000) i / (half − 1)), one number at a time."""
    steps, dim = [0, 1, 2, 500, 999, 3999], 10
    half = dim // 2
    rates = [math.exp(-math.log(10000) * i / (half - 1)) for i in range(half)]
    expected = [[math.sin(t * r) for r in rates] + [math.cos(t * r) for r in rates] for t in steps]
    assert_close(ops.sinusoidal(np.asarray(steps), dim, np.float64), np.asarray(expected), 1e-12, "the embedding")
    rounded = ops.sinusoidal(np.asarray(steps), dim, np.float16)  # the angle is not
    assert rounded.dtype == np.float16
    np.testing.assert_allclose(rounded, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_overflows(ops: Operations, dtype: type) -> None:
    """Where e^x is infinite or 0, SiLU, its gradient and softmax take their limits, and no warning is raised."""
    x = np.asarray([-1e4, -800.0, 0.0, 800.0, 1e4], dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for forward, backward in ((ops.silu, ops.silu_backward), (ops.gelu, ops.gelu_backward)):
            y, saved = forward(x)
            np.testing.assert_array_equal(y, [0, 0, 0, 800, 1e4])
            np.testing.assert_array_equal(backward(saved, np.ones_like(x)), [0, 0, 0.5, 1, 1])

        q, v = np.asarray([[[1e4], [-1e4]]], dtype), np.asarray([[[3.0], [5.0]]], dtype)
        y, saved = ops.attention(q, q, v)
        np.testing.assert_array_equal(y, v)  # Each query matches its own key, 1e8 to −1e8.
        assert all(np.isfinite(gradient).all() for gradient in ops.attention_backward(saved, np.ones_like(y)))


@pytest.mark.parametrize("norm", ["group_norm", "layer_norm"])
def test_norms_bear_a_large_mean(ops: Operations, rng: np.random.Generator, norm: str) -> None:
    """float32 elements of mean 1000 and deviation 1 are standardised as in float64, to 2e-4.

    The mean is rounded at 1000 · 6e-8; E[x²] − E[x]², rounded at 1e6 · 6e-8, would be off by a hundred times the bound.
    """
    x = (1000 + rng.normal(size=(2, 8, 8, 32))).astype(np.float32)
    scale, shift = rng.normal(size=(2, 32)).astype(np.float32)
    options = {"groups": 4} if norm == "group_norm" else {}
    y, _ = getattr(ops, norm)(x, scale, shift, **options)
    exact, _ = getattr(ops, norm)(*(a.astype(np.float64) for a in (x, scale, shift)), **options)
    assert_close(y.astype(np.float64), exact, 2e-4, "y")


@pytest.mark.parametrize(
    ("norm", "options", "sets", "axis"),
    [("group_norm", {"groups": 2}, (3, 20, 2, 3), (1, 3)), ("layer_norm", {}, (60, 6), 1)],
)
def test_norms_standardise(
    ops: Operations,
    rng: np.random.Generator,
    norm: str,
    options: dict[str, int],
    sets: tuple[int, ...],
    axis: int | tuple[int, ...],
) -> None:
    """With scale 1 and shift 0, each set of elements gets mean 0 and variance σ² / (σ² + 1e-6)."""
    x = 0.01 * rng.normal(size=(3, 4, 5, 6)) + 7
    y, _ = getattr(ops, norm)(x, np.ones(6), np.zeros(6), **options)
    before, after = x.reshape(sets), y.reshape(sets)
    np.testing.assert_allclose(after.mean(axis=axis), 0, atol=1e-12)
    np.testing.assert_allclose(after.var(axis=axis), before.var(axis=axis) / (before.var(axis=axis) + 1e-6), rtol=1e-9)
