"""Compiled operations against the reference operations, on random shapes, by one thread and by idle threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.operations import OPERATIONS, make_case
from tinyddpm.backend import load_backend
from tinyddpm.backend.workers import Workers
from tinyddpm.nn import DropoutNoise
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.activation import Dropout
from tinyddpm.ops.numba import norms, sharing
from tinyddpm.ops.numba.compiling import FASTMATH
from tinyddpm.ops.numba.exponential import exp, logistic
from tinyddpm.ops.numba_operations import NumbaOperations

pytestmark = pytest.mark.slow

NUMBA = load_backend("numba")
REFERENCE, OURS = Operations(NUMBA, training=True), NumbaOperations(NUMBA, training=True)

TYPES = st.sampled_from([np.float32, np.float64])
SEEDS = st.integers(0, 2**32 - 1)
SIDES, CHANNELS = st.integers(1, 9), st.integers(1, 7)

Arrays = tuple[np.ndarray, ...]


def close(ours: np.ndarray, reference: np.ndarray, terms: int = 1) -> None:
    """Results differ by rounding alone: in float32 by 2e-5 of the largest element, in float64 by 1e-13 of it.

    Sums of K terms of size 1 and either sign have partial sums of √K, each of which rounds by up to ε/2 of itself, in
    either direction: by K ε/2 at the end, in each of the two, however small the sum.
    """
    assert ours.dtype == reference.dtype
    assert ours.shape == reference.shape
    relative = {np.float32: 2e-5, np.float64: 1e-13}[ours.dtype.type] * max(1.0, np.abs(reference).max(initial=0))
    np.testing.assert_allclose(ours, reference, rtol=0, atol=max(relative, terms * np.finfo(ours.dtype).eps))


@pytest.fixture(params=["one thread", "idle threads"], autouse=True)
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run in the caller's thread, and shared by three threads however small the work."""
    if request.param == "idle threads":
        monkeypatch.setattr(sharing, "WORTH", 0)
        monkeypatch.setattr(sharing, "spread", lambda function, n: WORKERS.map(lambda _: shared(function, n), [0]))


WORKERS, shared = Workers(3), sharing.spread


def test_these_are_the_numba_backends() -> None:
    assert type(load_operations(NUMBA)) is NumbaOperations


fresh = numba.njit(error_model="numpy", fastmath=FASTMATH)
"""Compiles as operations are, but anew in every run: what is kept on disk does not see changes of what it calls."""


@fresh
def exp_of_all(x: np.ndarray, y: np.ndarray) -> None:
    for i in range(len(x)):
        y[i] = exp(x[i])


@fresh
def logistic_of_all(x: np.ndarray, y: np.ndarray) -> None:
    for i in range(len(x)):
        y[i] = logistic(x[i])


def of_all(function: Callable[[np.ndarray, np.ndarray], None], x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    function(x, y)
    return y


@pytest.mark.parametrize(
    ("dtype", "least", "largest", "error"),
    [(np.float32, -86, 88.7228, 1e-7), (np.float64, -707, 709.782, 3e-16)],
)
def test_exponential(dtype: type, least: float, largest: float, error: float) -> None:
    """Against e^x in higher precision over all the range, with what lies beyond, and NaN."""
    x = np.linspace(least, largest, 1_000_001).astype(dtype)
    exact = np.exp(x.astype(np.longdouble))
    assert (abs(of_all(exp_of_all, x) - exact) / exact).max() < error
    beyond = np.array([largest + 1, 1e30, np.inf, least - 1, -1e30, -np.inf, np.nan, 0], dtype)
    expected = np.array([np.inf, np.inf, np.inf, 0, 0, 0, np.nan, 1], dtype)
    np.testing.assert_array_equal(of_all(exp_of_all, beyond), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logistic(dtype: type) -> None:
    x = np.linspace(-40, 40, 100_001).astype(dtype)
    exact = 1 / (1 + np.exp(-x.astype(np.longdouble)))
    assert (abs(of_all(logistic_of_all, x) - exact) / exact).max() < 3 * np.finfo(dtype).eps
    ends = np.array([1e30, np.inf, -1e30, -np.inf, np.nan], dtype)
    np.testing.assert_array_equal(of_all(logistic_of_all, ends), np.array([1, 1, 0, 0, np.nan], dtype))


@pytest.mark.parametrize("function", [exp, logistic])
def test_functions_of_compiled_code_say_so(function: Callable[[float], float]) -> None:
    with pytest.raises(NotImplementedError, match="in compiled code alone"):
        function(1.0)


def normal(rng: np.random.Generator, dtype: type, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def check(operation: str, *arguments: Any, rng: np.random.Generator, terms: int = 1) -> None:
    """Compare an operation and its backward, for a random gradient, with the reference's."""
    y, saved = getattr(OURS, operation)(*arguments)
    expected, expected_saved = getattr(REFERENCE, operation)(*arguments)
    close(y, expected)
    dy = normal(rng, y.dtype, *y.shape)
    ours = getattr(OURS, f"{operation}_backward")(saved, dy)
    reference = getattr(REFERENCE, f"{operation}_backward")(expected_saved, dy)
    for a, b in zip(flat(ours), flat(reference), strict=True):
        close(a, b, terms)


def flat(gradients: Any) -> Arrays:
    """Return the arrays of a gradient, or of a tuple of gradients or of such tuples."""
    if not isinstance(gradients, tuple):
        return (gradients,)
    return tuple(g for gradient in gradients for g in flat(gradient))


PIXELS = st.lists(SIDES, min_size=1, max_size=2)
GROUPS, OF_EACH = st.integers(1, 4), st.integers(1, 4)


@pytest.fixture(params=["short rows", "rows as shipped"])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms in rows of a few pixels, several a sample, and as shipped: one a sample, of so few numbers."""
    if request.param == "short rows":
        row_length = norms.row_length
        monkeypatch.setattr(norms, "row_length", lambda size, c: min(row_length(size, c), 3 * c))


@pytest.mark.usefixtures("rows")
@given(n=st.integers(1, 9), pixels=PIXELS, groups=GROUPS, of_each=OF_EACH, dtype=TYPES, seed=SEEDS)
def test_group_norm(n: int, pixels: list[int], groups: int, of_each: int, dtype: type, seed: int) -> None:
    """Over batch sizes, images, rows of tokens, numbers of groups and channels.

    ε is 1e-2: in a group of few, almost equal elements a smaller one makes the gradient a matter of rounding.
    """
    rng, c = np.random.default_rng(seed), groups * of_each
    x = 2 * normal(rng, dtype, n, *pixels, c) + 1
    check("group_norm", x, *normal(rng, dtype, 2, c), groups, 1e-2, rng=rng)


@pytest.mark.usefixtures("rows")
@given(
    n=st.integers(1, 9), pixels=PIXELS, groups=GROUPS, of_each=OF_EACH, modulated=st.booleans(), dtype=TYPES, seed=SEEDS
)
def test_group_norm_silu(
    n: int, pixels: list[int], groups: int, of_each: int, modulated: bool, dtype: type, seed: int
) -> None:
    """Over the shapes above, with and without a modulation, in sets of at least 16 elements."""
    rng, c = np.random.default_rng(seed), groups * of_each
    x = 2 * normal(rng, dtype, n, 16, *pixels, c) + 1
    modulation = tuple(normal(rng, dtype, 2, n, c)) if modulated else ()
    check("group_norm_silu", x, *normal(rng, dtype, 2, c), groups, modulation, rng=rng, terms=x.size // c)


def test_a_mean_far_from_zero_costs_no_variance() -> None:
    """Two passes: (x − μ)² has digits left where x² − μ² has none."""
    rng = np.random.default_rng(1)
    x = normal(rng, np.float32, 2, 8, 8, 12) + 4096
    y, _ = OURS.group_norm(x, np.ones(12, np.float32), np.zeros(12, np.float32), 3)
    expected, _ = REFERENCE.group_norm(x.astype(np.float64), np.ones(12), np.zeros(12), 3)
    np.testing.assert_allclose(y, expected, atol=2e-3)


@given(leading=st.lists(SIDES, min_size=1, max_size=3), c=st.integers(1, 40), dtype=TYPES, seed=SEEDS)
def test_layer_norm(leading: list[int], c: int, dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check("layer_norm", normal(rng, dtype, *leading, c), *normal(rng, dtype, 2, c), 1e-2, rng=rng)


@pytest.mark.usefixtures("rows")
@given(n=st.integers(1, 9), pixels=PIXELS, c=CHANNELS, dtype=TYPES, seed=SEEDS)
def test_what_a_sample_is_told(n: int, pixels: list[int], c: int, dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, told = normal(rng, dtype, n, *pixels, c), normal(rng, dtype, 2, n, c)
    check("modulate", x, *told, rng=rng)
    check("add_vector", x, told[0], rng=rng)


WHOLE = st.sampled_from([16, 32, 64])
"""Channels that fill panels of the products, in float64 or in both types, on processors with wide registers or any."""


@given(
    n=st.integers(1, 3), queries=st.integers(1, 70), keys=st.integers(1, 70), heads=st.integers(1, 3),
    of_each=st.integers(1, 4) | WHOLE, dtype=TYPES, seed=SEEDS,
)  # fmt: skip
def test_attention(n: int, queries: int, keys: int, heads: int, of_each: int, dtype: type, seed: int) -> None:
    """Over batch sizes, numbers of queries and keys, heads, and channels that fill panels or do not; several blocks."""
    rng = np.random.default_rng(seed)
    q = normal(rng, dtype, n, queries, heads * of_each)
    check("attention", q, *normal(rng, dtype, 2, n, keys, heads * of_each), heads, rng=rng)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_attention_that_overflows_nothing(scale: float) -> None:
    """Scores far from zero: the largest weight of a row is 1, or several share it."""
    rng = np.random.default_rng(1)
    q, k, v = normal(rng, np.float32, 3, 2, 70, 8)
    (ours, _), (expected, _) = OURS.attention(scale * q, k, v, 2), REFERENCE.attention(scale * q, k, v, 2)
    np.testing.assert_allclose(ours, expected, atol=1e-2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_attention_of_numbers_that_are_none(bad: float) -> None:
    """A key that is none makes its sample NaN where the reference is, a query only its row."""
    rng = np.random.default_rng(1)
    q, k, v, dy = normal(rng, np.float32, 4, 2, 70, 8)
    for place in (q, k, v):
        broken = [a.copy() for a in (q, k, v)]
        next(b for a, b in zip((q, k, v), broken, strict=True) if a is place)[1, 66, 5] = bad
        with np.errstate(invalid="ignore"):
            ours, saved = OURS.attention(*broken, 2)
            expected, expected_saved = REFERENCE.attention(*broken, 2)
            np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(expected))
            np.testing.assert_array_equal(np.isnan(ours), np.isnan(expected))
            for a, b in zip(
                OURS.attention_backward(saved, dy), REFERENCE.attention_backward(expected_saved, dy), strict=True
            ):
                np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))


SHAPES = st.lists(SIDES, min_size=1, max_size=3)


@given(shape=SHAPES, dtype=TYPES, seed=SEEDS)
def test_activations(shape: list[int], dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check("silu", 3 * normal(rng, dtype, *shape), rng=rng)
    check("gelu", 2 * normal(rng, dtype, *shape), rng=rng)


@given(shape=SHAPES, rate=st.floats(0, 0.9), dtype=TYPES, seed=SEEDS)
def test_dropout_draws_the_references_mask(shape: list[int], rate: float, dtype: type, seed: int) -> None:
    """What is dropped is exactly what the reference drops; the same with a norm and SiLU before it."""
    rng = np.random.default_rng(seed)
    x = 1 + abs(normal(rng, dtype, *shape, 8))
    noise = DropoutNoise(NUMBA.random(seed), 3, np.arange(len(x)) + 5)
    dropout = Dropout(noise, rate, 2)
    np.testing.assert_array_equal(OURS.dropout(x, dropout)[0] == 0, ~noise.keep(x.shape, rate, 2))
    check("dropout", x, dropout, rng=rng)
    scale, shift = normal(rng, dtype, 2, 8)
    y, _ = OURS.group_norm_silu(x, scale, shift, 2, (), dropout)
    np.testing.assert_array_equal((y == 0)[~noise.keep(x.shape, rate, 2)], True)


@given(n=st.integers(1, 5), pixels=st.integers(8, 20), rate=st.floats(0, 0.9), dtype=TYPES, seed=SEEDS)
def test_group_norm_silu_with_dropout(n: int, pixels: int, rate: float, dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, modulation = normal(rng, dtype, n, pixels, 12), tuple(normal(rng, dtype, 2, n, 12))
    dropout = Dropout(DropoutNoise(NUMBA.random(seed), 3, np.arange(n)), rate, 2)
    check("group_norm_silu", x, *normal(rng, dtype, 2, 12), 3, modulation, dropout, rng=rng, terms=10 * n * pixels)


@given(
    leading=SHAPES | st.lists(st.integers(50, 600), min_size=1, max_size=1), c_in=CHANNELS | WHOLE,
    c_out=CHANNELS | WHOLE, others=st.integers(0, 3), dtype=TYPES, seed=SEEDS,
)  # fmt: skip
def test_linear(leading: list[int], c_in: int, c_out: int, others: int, dtype: type, seed: int) -> None:
    """Over leading axes, several blocks of rows, and channels that fill panels or do not; a residual is added as by
    itself, bit by bit, and what reaches x by other ways."""
    rng = np.random.default_rng(seed)
    x, w, b = normal(rng, dtype, *leading, c_in), normal(rng, dtype, c_in, c_out), normal(rng, dtype, c_out)
    check("linear", x, w, b, rng=rng, terms=max(c_in, c_out, *leading))
    residual = normal(rng, dtype, *leading, c_out)
    y, saved = OURS.linear(x, w, b, residual)
    np.testing.assert_array_equal(y, OURS.linear(x, w, b)[0] + residual)
    added = tuple(normal(rng, dtype, others, *leading, c_in))
    dx, dw, db = OURS.linear_backward(saved, residual)
    places = np.full_like(dw, np.nan), np.full_like(db, np.nan)
    found = OURS.linear_backward(saved, residual, into=places, added=added)
    np.testing.assert_allclose(found[0], sum(added, start=dx), rtol=0, atol=1e-5)
    for place, gradient in zip(places, (dw, db), strict=True):
        np.testing.assert_array_equal(place, gradient)


@given(n=st.integers(1, 5), h=SIDES, w=SIDES, c=CHANNELS, dtype=TYPES, seed=SEEDS)
def test_resampling(n: int, h: int, w: int, c: int, dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check("upsample", normal(rng, dtype, n, h, w, c), rng=rng)
    check("average_pool", normal(rng, dtype, n, 2 * h, 2 * w, c), rng=rng)


@given(leading=SHAPES, c_a=CHANNELS, c_b=CHANNELS, dtype=TYPES, seed=SEEDS)
def test_concatenation(leading: list[int], c_a: int, c_b: int, dtype: type, seed: int) -> None:
    """Bit by bit; the gradients lie contiguous, as other operations want them."""
    rng = np.random.default_rng(seed)
    a, b = normal(rng, dtype, *leading, c_a), normal(rng, dtype, *leading, c_b)
    y, saved = OURS.concat(a, b)
    np.testing.assert_array_equal(y, np.concatenate([a, b], axis=-1))
    for ours, whole in zip(OURS.concat_backward(saved, y), (a, b), strict=True):
        np.testing.assert_array_equal(ours, whole)
        assert ours.flags.c_contiguous


@given(n=st.integers(1, 5), shape=SHAPES, dtype=TYPES, seed=SEEDS)
def test_loss(n: int, shape: list[int], dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check("mse", *normal(rng, dtype, 2, n, *shape), rng=rng)


@pytest.mark.parametrize("operation", ["silu", "gelu"])
def test_activations_of_numbers_that_are_none(operation: str) -> None:
    """NaN, inf and −inf give what the reference gives, among numbers that stay as they are."""
    x = np.linspace(-3, 3, 67, dtype=np.float32)
    x[[3, 20, 66]] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        for ours, expected in zip(*(_both_ways(ops, operation, x) for ops in (OURS, REFERENCE)), strict=True):
            np.testing.assert_allclose(ours, expected, atol=1e-5)


def _both_ways(ops: Operations, operation: str, x: np.ndarray) -> Arrays:
    y, saved = getattr(ops, operation)(x)
    return y, getattr(ops, f"{operation}_backward")(saved, np.ones_like(x))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_none(bad: float) -> None:
    prediction, target = np.zeros((2, 3, 40, 7), np.float32)
    prediction[1, 33, 2] = bad
    losses, saved = OURS.mse(prediction, target)
    expected, _ = REFERENCE.mse(prediction, target)
    np.testing.assert_array_equal(losses, expected)
    assert not np.isfinite(OURS.mse_backward(saved, np.ones(3, np.float32))[1, 33, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_come_through(bad: float) -> None:
    """One in a group makes all of the group NaN, forwards and backwards, and leaves the other samples as they were."""
    rng = np.random.default_rng(1)
    x, dy = normal(rng, np.float32, 2, 3, 16, 8)
    scale, shift = np.ones(8, np.float32), np.zeros(8, np.float32)
    broken = x.copy()
    broken[1, 5, 6] = bad
    with np.errstate(invalid="ignore"):
        for ops in (OURS, REFERENCE):
            y, saved = ops.group_norm_silu(broken, scale, shift, 2)
            dx, *_ = ops.group_norm_silu_backward(saved, dy)
            for of_all, intact in ((y, ops.group_norm_silu(x, scale, shift, 2)[0]), (dx, None)):
                assert np.isnan(of_all[1, :, 4:]).all()
                assert np.isfinite(of_all[[0, 2]]).all()
                assert np.isfinite(of_all[1, :, :4]).all()
                if intact is not None:
                    np.testing.assert_array_equal(of_all[[0, 2]], intact[[0, 2]])


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("operation", [name for name, operation in OPERATIONS.items() if operation.vectors])
def test_backwards_store_where_they_are_told(operation: str, count: int) -> None:
    """The parameters' gradients lie in their places, and what reaches x by other ways is in dx and stays as it was."""
    rng = np.random.default_rng(1)
    for shape in OPERATIONS[operation].shapes:
        case = make_case(operation, shape, seed=1).astype(np.float32)
        y, saved = case.forward(OURS)
        dy, backward = normal(rng, np.float32, *y.shape), getattr(OURS, f"{operation}_backward")
        dx, *gradients = backward(saved, dy)
        added = tuple(normal(rng, np.float32, *dx.shape, 2)[..., 0] for _ in range(count))
        before = [a.copy() for a in added]
        into = tuple(np.full_like(case.inputs[name], np.nan) for name in OPERATIONS[operation].parameters)
        our_dx, *ours = backward(saved, dy, into=into, added=added)
        close(our_dx, sum(added, start=dx))
        np.testing.assert_array_equal(added, before)
        for place, stored, gradient in zip(into, ours[:2], gradients[:2], strict=True):
            assert stored is place
            np.testing.assert_array_equal(place, gradient)
