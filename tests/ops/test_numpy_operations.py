"""NumPy's overrides against the reference operations, on random shapes and across the borders of their blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.runs import DIGITS, config
from tinyddpm.backend import load_backend
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.cpu import blocks, convolution, normalisation, silu, winograd
from tinyddpm.ops.numpy_operations import NumpyOperations
from tinyddpm.training.assembly import make_trainer, open_data

NUMPY = load_backend("numpy")
REFERENCE, OURS = Operations(NUMPY, training=True), NumpyOperations(NUMPY, training=True)


def close(ours: np.ndarray, reference: np.ndarray, terms: int = 1) -> None:
    """float32 results differ by rounding alone: by 2e-5 of the largest element, Winograd's transforms included.

    Sums of K terms of size 1 and either sign have partial sums of √K, each of which rounds by up to 2⁻²⁴ of itself, in
    either direction: by K 2⁻²⁴ at the end, in each of the two, however small the sum.
    """
    assert ours.dtype == reference.dtype == np.float32
    assert ours.shape == reference.shape
    relative = 2e-5 * max(1.0, np.abs(reference).max())
    np.testing.assert_allclose(ours, reference, rtol=0, atol=max(relative, terms * 2.0**-23))


@pytest.fixture(params=["small blocks", "blocks as shipped", "Winograd wherever it can"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small blocks":
        monkeypatch.setattr(convolution, "PATCHES", 20_000)
        monkeypatch.setattr(blocks, "PIECE", 100)
        monkeypatch.setattr(blocks, "ROW", 8)
    if request.param == "Winograd wherever it can":
        monkeypatch.setattr(convolution, "GATHERED", 10**9)
        monkeypatch.setattr(convolution, "WRITTEN", 0)
        monkeypatch.setattr(convolution, "NARROWEST", 1)
        monkeypatch.setattr(winograd, "BLOCK_TILES", 4)
        monkeypatch.setattr(winograd, "BLOCK_ELEMENTS", 1)


def test_these_are_the_numpy_backends() -> None:
    assert type(load_operations(NUMPY)) is NumpyOperations


SIDES, CHANNELS = st.integers(1, 9), st.integers(1, 7)


@pytest.mark.usefixtures("sizes")
@given(
    n=st.integers(1, 9), h=SIDES, w=SIDES, c_in=CHANNELS, c_out=CHANNELS, kh=st.integers(1, 4), kw=st.integers(1, 4),
    stride=st.sampled_from([1, 2]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_convolution(n: int, h: int, w: int, c_in: int, c_out: int, kh: int, kw: int, stride: int, seed: int) -> None:
    """Over batch sizes, odd and even sides, channels, kernels of any size and both strides; several blocks and one.

    A residual is added as by itself, bit by bit.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, h, w, c_in), np.float32)
    weights, bias = rng.standard_normal((kh, kw, c_in, c_out), np.float32), rng.standard_normal(c_out, np.float32)
    y, saved = OURS.conv2d(x, weights, bias, stride)
    expected, expected_saved = REFERENCE.conv2d(x, weights, bias, stride)
    close(y, expected)
    residual, dy = rng.standard_normal((2, *y.shape), np.float32)
    np.testing.assert_array_equal(OURS.conv2d(x, weights, bias, stride, residual)[0], y + residual)
    for ours, reference in zip(
        OURS.conv2d_backward(saved, dy), REFERENCE.conv2d_backward(expected_saved, dy), strict=True
    ):
        close(ours, reference)


@pytest.mark.usefixtures("sizes")
@given(
    n=st.integers(1, 9), pixels=st.lists(SIDES, min_size=1, max_size=2), groups=st.integers(1, 4),
    of_each=st.integers(1, 4), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_group_norm(n: int, pixels: list[int], groups: int, of_each: int, seed: int) -> None:
    """Over batch sizes, images, rows of tokens, numbers of groups and channels; several blocks and one.

    ε is 1e-2: in a group of few, almost equal elements a smaller one makes the gradient a matter of rounding.
    """
    rng = np.random.default_rng(seed)
    c = groups * of_each
    x = 2 * rng.standard_normal((n, *pixels, c), np.float32) + 1
    scale, shift = rng.standard_normal((2, c), np.float32)
    y, saved = OURS.group_norm(x, scale, shift, groups, 1e-2)
    expected, expected_saved = REFERENCE.group_norm(x, scale, shift, groups, 1e-2)
    close(y, expected)
    dy = rng.standard_normal(y.shape, np.float32)
    for ours, reference in zip(
        OURS.group_norm_backward(saved, dy), REFERENCE.group_norm_backward(expected_saved, dy), strict=True
    ):
        close(ours, reference)


@pytest.fixture(params=silu.WAYS)
def silu_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """SiLU as it is computed on one processor or another."""
    monkeypatch.setattr(normalisation, "SILU", silu.WAYS[request.param])


@pytest.mark.slow
@pytest.mark.usefixtures("sizes", "silu_way")
@given(
    n=st.integers(1, 9), pixels=st.lists(SIDES, min_size=1, max_size=2), groups=st.integers(1, 4),
    of_each=st.integers(1, 4), modulated=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_group_norm_silu(n: int, pixels: list[int], groups: int, of_each: int, modulated: bool, seed: int) -> None:
    """Over the shapes above, with and without a modulation, in sets of at least 16 elements."""
    rng = np.random.default_rng(seed)
    c = groups * of_each
    x = 2 * rng.standard_normal((n, 16, *pixels, c), np.float32) + 1
    scale, shift = rng.standard_normal((2, c), np.float32)
    modulation = tuple(rng.standard_normal((2, n, c), np.float32)) if modulated else ()
    y, saved = OURS.group_norm_silu(x, scale, shift, groups, modulation)
    expected, expected_saved = REFERENCE.group_norm_silu(x, scale, shift, groups, modulation)
    close(y, expected)
    dy = rng.standard_normal(y.shape, np.float32)
    ours, *our_sums, our_modulation = OURS.group_norm_silu_backward(saved, dy)
    expected, *sums, its_modulation = REFERENCE.group_norm_silu_backward(expected_saved, dy)
    close(ours, expected)
    for a, b in zip([*our_sums, *our_modulation], [*sums, *its_modulation], strict=True):
        close(a, b, terms=x.size // c)


@pytest.mark.usefixtures("silu_way")
def test_silu_at_its_limits() -> None:
    """A scale of 1e4 drives SiLU to 0 and to its argument, without a warning and without NaN."""
    x = np.linspace(-3, 3, 64, dtype=np.float32).reshape(1, 64, 1)
    scale, shift = np.full(1, 1e4, np.float32), np.zeros(1, np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y, saved = OURS.group_norm_silu(x, scale, shift, 1)
        expected, expected_saved = REFERENCE.group_norm_silu(x, scale, shift, 1)
        np.testing.assert_allclose(y, expected, rtol=1e-5)
        dx, *_ = OURS.group_norm_silu_backward(saved, np.ones_like(x))
        expected, *_ = REFERENCE.group_norm_silu_backward(expected_saved, np.ones_like(x))
        close(dx, expected)


@given(leading=st.lists(SIDES, min_size=1, max_size=3), c_in=CHANNELS, c_out=CHANNELS, seed=st.integers(0, 2**32 - 1))
def test_linear(leading: list[int], c_in: int, c_out: int, seed: int) -> None:
    """Over leading axes and channels; a residual is added as by itself, bit by bit."""
    rng = np.random.default_rng(seed)
    x, b = rng.standard_normal((*leading, c_in), np.float32), rng.standard_normal(c_out, np.float32)
    w = rng.standard_normal((c_in, c_out), np.float32)
    y, saved = OURS.linear(x, w, b)
    expected, expected_saved = REFERENCE.linear(x, w, b)
    close(y, expected)
    residual, dy = rng.standard_normal((2, *y.shape), np.float32)
    np.testing.assert_array_equal(OURS.linear(x, w, b, residual)[0], y + residual)
    for ours, reference in zip(
        OURS.linear_backward(saved, dy), REFERENCE.linear_backward(expected_saved, dy), strict=True
    ):
        close(ours, reference)


@pytest.mark.usefixtures("sizes")
@given(
    n=st.integers(1, 5), queries=SIDES, keys=SIDES, heads=st.integers(1, 3), of_each=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_attention(n: int, queries: int, keys: int, heads: int, of_each: int, seed: int) -> None:
    """Over batch sizes, numbers of queries and keys, heads and channels; several blocks and one."""
    rng = np.random.default_rng(seed)
    q, dy = rng.standard_normal((2, n, queries, heads * of_each), np.float32)
    k, v = rng.standard_normal((2, n, keys, heads * of_each), np.float32)
    y, saved = OURS.attention(q, k, v, heads)
    expected, expected_saved = REFERENCE.attention(q, k, v, heads)
    close(y, expected)
    for ours, reference in zip(
        OURS.attention_backward(saved, dy), REFERENCE.attention_backward(expected_saved, dy), strict=True
    ):
        close(ours, reference)


def test_inference_transforms_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network without training, two layers of one shape keep their own; in training, none is kept.

    What changes the buffer is seen when the weights are asked for again, and none of those before is kept then.
    """
    calls = []
    transformed = winograd.transformed
    monkeypatch.setattr(winograd, "transformed", lambda w: calls.append(1) or transformed(w))
    rng = np.random.default_rng(1)
    x, b = rng.standard_normal((8, 16, 16, 64), np.float32), np.zeros(64, np.float32)
    buffer, shapes = rng.standard_normal(2 * 9 * 64 * 64, np.float32), [(3, 3, 64, 64)] * 2
    before = buffer.copy()
    inference = NumpyOperations(NUMPY)
    layers = inference.weights(buffer, shapes)
    for _ in range(3):
        for w in layers:
            close(inference.conv2d(x, w, b)[0], REFERENCE.conv2d(x, w, b)[0])
    assert len(calls) == 2
    buffer *= 2
    np.testing.assert_array_equal(np.concatenate([w.ravel() for w in layers]), before)
    first, _ = inference.weights(buffer, shapes)
    close(inference.conv2d(x, first, b)[0], 2 * REFERENCE.conv2d(x, layers[0], b)[0])
    assert (len(calls), len(inference._transformed)) == (3, 1)
    for _ in range(3):
        OURS.conv2d(x, OURS.weights(buffer, shapes)[0], b)
    assert len(calls) == 6


def test_weights_of_ones_own_are_never_stale() -> None:
    """Arrays that no network owns may be changed in place between two calls."""
    rng, inference = np.random.default_rng(1), NumpyOperations(NUMPY)
    x, b = rng.standard_normal((8, 16, 16, 64), np.float32), np.zeros(64, np.float32)
    w = rng.standard_normal((3, 3, 64, 64), np.float32)
    for _ in range(2):
        close(inference.conv2d(x, w, b)[0], REFERENCE.conv2d(x, w, b)[0])
        w *= -3


@pytest.mark.slow
def test_networks_agree_over_a_hundred_steps() -> None:
    """A small U-Net trained by the reference and by the overrides: losses agree, to rounding's growth of 1e-3."""
    settings = config(DIGITS, batch_size=16, learning_rate=1e-3, warmup=20)
    dataset = open_data(settings)
    ours, reference = make_trainer(settings, NUMPY, dataset), make_trainer(settings, NUMPY, dataset, REFERENCE)
    losses = [(ours.train_step().loss, reference.train_step().loss) for _ in range(100)]
    a, b = np.asarray(losses).T
    assert (a != b).any()
    np.testing.assert_allclose(a, b, rtol=1e-3)
