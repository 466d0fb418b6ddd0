"""Products by kernels against NumPy in float64, in three kinds of arithmetic, within what rounding allows for.

Both sides multiply the same numbers: those that bfloat16 or TF32 can hold. What is left is the rounding of sums, at
most one unit a term and addition, and the rounding of the result where it is bfloat16. A unit is float32's where every
addition rounds to nearest, and twice that on tensor cores, which chop (Fasi et al. 2021, doi 10.7717/peerj-cs.330).
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cuda.conftest import make_shim
from helpers.cuda_shim import ShimBackend
from tinyddpm.backend import load_backend
from tinyddpm.errors import BackendError
from tinyddpm.ops import Operations
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.products import CudaProducts

pytestmark = pytest.mark.slow

REFERENCE = Operations(load_backend("numpy"), training=True)
ROUNDED, CHOPPED = 2.0**-24, 2.0**-23

Array = np.ndarray[Any, Any]


class Kind(NamedTuple):
    """A precision: how arrays are stored, and units of rounding of an addition, of what is stored, and multiplied."""

    dtype: Any
    unit: float
    stored: float
    factors: float


KINDS = {
    "fp32": Kind(np.float32, ROUNDED, ROUNDED, 0.0),
    "tf32": Kind(np.float32, CHOPPED, ROUNDED, 2.0**-11),
    "bf16": Kind(ml_dtypes.bfloat16, CHOPPED, 2.0**-8, 0.0),
}

GPU = pytest.param("cupy", marks=pytest.mark.gpu)


@pytest.fixture(scope="module", params=["CPU, little shared memory", GPU])
def machine(request: pytest.FixtureRequest) -> str:
    """What runs the kernels: a CPU, and CuPy where there is a GPU."""
    try:
        operations("fp32", request.param)
    except BackendError as error:
        pytest.skip(str(error))
    return str(request.param)


@cache
def operations(precision: str, machine: str) -> CudaProducts:
    if machine == "cupy":
        return CudaProducts(load_backend("cupy", precision=precision), training=True)
    return CudaProducts(ShimBackend(make_shim(machine).shared_memory, precision), training=True)


def factor(array: Array, precision: str) -> Array:
    """Return in float64 what is multiplied: for TF32, float32 rounded to 10 bits, ties away from zero."""
    if precision != "tf32":
        return array.astype(np.float64)
    return ((array.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32).astype(np.float64)


def moved(ops: Operations, array: Array, by: int) -> Any:
    """Return the array where kernels run, contiguous, `by` numbers after an address that is a multiple of 16."""
    room = ops.backend.xp.empty((array.size + by,), dtype=array.dtype)
    room[by:] = ops.backend.asarray(array.reshape(-1))
    return room[by:].reshape(array.shape)


def assert_within(ops: Operations, found: Any, expected: Array, bound: Array, name: str) -> None:
    found = ops.backend.to_numpy(found)
    assert found.shape == expected.shape, name
    excess = np.max(np.abs(found.astype(np.float64) - expected) - bound, initial=-np.inf)
    assert excess <= 0, f"{name} is off by {excess:.2g} more than rounding explains"


def check(
    ours: CudaProducts,
    operation: str,
    shapes: dict[str, tuple[int, ...]],
    residual: bool = False,
    by: int = 0,
    **options: int,
) -> None:
    """Compare y, dx, dw and db of `conv2d` or `linear` on random arrays that begin `by` numbers off alignment."""
    precision, rng = ours.backend.precision, np.random.default_rng(11)
    kind = KINDS[precision]
    x, w = (rng.normal(size=shapes[name]).astype(kind.dtype) for name in "xw")
    b = rng.normal(size=w.shape[-1:]).astype(np.float32)

    def results(ops: Operations, x: Any, w: Any, b: Any, dy: Any, added: Any) -> tuple[Any, ...]:
        y, saved = getattr(ops, operation)(x, w, b, **options, residual=added if residual else None)
        return (y, *getattr(ops, f"{operation}_backward")(saved, dy))

    y_shape = getattr(REFERENCE, operation)(*(a.astype(np.float64) for a in (x, w, b)), **options)[0].shape
    dy, added = rng.normal(size=(2, *y_shape)).astype(kind.dtype)
    found = results(ours, *(moved(ours, a, by) for a in (x, w, b, dy, added)))
    exact = [*(factor(a, precision) for a in (x, w)), b.astype(np.float64), factor(dy, precision), added.astype(float)]
    expected, sizes = results(REFERENCE, *exact), results(REFERENCE, *map(abs, exact))
    db = dy.astype(np.float64).reshape(-1, w.shape[-1]).sum(axis=0)  # of dy as it is: a sum, not a product
    taps, pixels = prod(w.shape[:-2]), dy.size // w.shape[-1]
    terms = {"y": taps * w.shape[-2] + residual, "dx": taps * w.shape[-1], "dw": pixels, "db": pixels}
    types = (kind.dtype, kind.dtype, np.float32, np.float32)
    for name, ours_, right, size, dtype in zip(terms, found, (*expected[:3], db), sizes, types, strict=True):
        assert ours_.dtype == dtype, name
        stored = kind.stored if dtype == kind.dtype else ROUNDED
        bound = (terms[name] + 2) * kind.unit * size + stored * abs(right)
        assert_within(ours, ours_, right, bound, f"{name} in {precision}")


SIDE, CHANNELS = st.integers(1, 9), st.integers(1, 40)


@given(
    n=st.integers(1, 2), h=SIDE, w=SIDE, c_in=CHANNELS, c_out=CHANNELS, kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]), residual=st.booleans(), by=st.integers(0, 3),
)  # fmt: skip
@example(n=1, h=6, w=4, c_in=8, c_out=16, kernel=3, stride=2, residual=True, by=0)  # padded behind only
@settings(max_examples=10)
@pytest.mark.parametrize("precision", KINDS)
def test_convolution(
    precision: str, machine: str, n: int, h: int, w: int, c_in: int, c_out: int, kernel: int, stride: int,
    residual: bool, by: int,
) -> None:  # fmt: skip
    """Any shape and stride, with a residual and without, aligned or not."""
    shapes = {"x": (n, h, w, c_in), "w": (kernel, kernel, c_in, c_out)}
    check(operations(precision, machine), "conv2d", shapes, residual, by, stride=stride)


@given(
    leading=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), c_in=CHANNELS, c_out=CHANNELS,
    residual=st.booleans(), by=st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=10)
@pytest.mark.parametrize("precision", KINDS)
def test_linear(
    precision: str, machine: str, leading: tuple[int, ...], c_in: int, c_out: int, residual: bool, by: int
) -> None:
    check(operations(precision, machine), "linear", {"x": (*leading, c_in), "w": (c_in, c_out)}, residual, by)


@pytest.mark.parametrize("machine", ["CPU, as much shared memory as an H100", GPU], indirect=True)
@pytest.mark.parametrize("side", geometry.TILES)
@pytest.mark.parametrize("precision", KINDS)
def test_several_tiles(monkeypatch: pytest.MonkeyPatch, precision: str, side: int, machine: str) -> None:
    """More rows, columns and k than a tile of either size takes, multiples of nothing and of 8."""
    monkeypatch.setattr(geometry, "TILES", (side,))
    monkeypatch.setattr(geometry, "SPLIT_STEPS", 1000)
    check(operations(precision, machine), "linear", {"x": (135, 131), "w": (131, 133)}, residual=True)
    check(operations(precision, machine), "conv2d", {"x": (1, 12, 11, 72), "w": (3, 3, 72, 136)}, residual=True)


@pytest.mark.parametrize("shape", [(3, 8, 9, 8), (2, 11, 5, 5)], ids=str)
@pytest.mark.parametrize("precision", KINDS)
def test_sums_over_pixels_in_parts(
    monkeypatch: pytest.MonkeyPatch, precision: str, machine: str, shape: tuple[int, ...]
) -> None:
    """dw of 2 to 14 parts, the last one shorter, and db of several chunks."""
    monkeypatch.setattr(geometry, "SPLIT_STEPS", 1)
    monkeypatch.setattr(geometry, "SUM_ROWS", 7)
    for stride in (1, 2):
        check(operations(precision, machine), "conv2d", {"x": shape, "w": (3, 3, shape[3], 6)}, stride=stride)


@pytest.mark.parametrize("precision", KINDS)
def test_the_same_at_every_run(precision: str, machine: str) -> None:
    """y, dx, dw and db of a convolution in several blocks and parts, bit by bit."""
    ops, rng, kind = operations(precision, machine), np.random.default_rng(2), KINDS[precision]
    shapes = ((2, 20, 20, 24), (3, 3, 24, 8), (2, 20, 20, 8))
    x, w, dy = (moved(ops, rng.normal(size=shape).astype(kind.dtype), 0) for shape in shapes)
    b = moved(ops, np.ones(8, np.float32), 0)

    def once() -> list[bytes]:
        y, saved = ops.conv2d(x, w, b)
        return [ops.backend.to_numpy(a).tobytes() for a in (y, *ops.conv2d_backward(saved, dy))]

    assert once() == once()


def test_parts_cover_all_pixels() -> None:
    """For many sizes: parts of whole steps, none empty, all of k."""
    for k in [*range(1, 2000, 7), 131072, 131073]:
        for itemsize in (2, 4):
            _, parts, each = geometry.split_product(128, 128, 9, k, itemsize, 232448)
            assert each % (64 // itemsize) == 0
            assert (parts - 1) * each < k <= parts * each


@given(
    n=st.integers(1, 2), queries=st.integers(1, 40), keys=st.integers(1, 40), heads=st.integers(1, 3),
    each=st.integers(1, 40), by=st.integers(0, 3),
)  # fmt: skip
@example(n=1, queries=9, keys=7, heads=4, each=6, by=0)  # rows of whole vectors, but no head is one
@settings(max_examples=10)
@pytest.mark.parametrize("precision", KINDS)
def test_attention(
    precision: str, machine: str, n: int, queries: int, keys: int, heads: int, each: int, by: int
) -> None:
    """y, dq, dk, dv: the bound follows the rounding of scores, p, dp and dscores to first order, twice for the rest."""
    kind, rng, c, ops = KINDS[precision], np.random.default_rng(3), heads * each, operations(precision, machine)
    shapes = [(n, queries, c), (n, keys, c), (n, keys, c), (n, queries, c)]
    arrays = [factor(rng.normal(size=s).astype(np.float32), "tf32").astype(kind.dtype) for s in shapes]
    q, k, v, dy = (moved(ops, a, by) for a in arrays)
    y, saved = ops.attention(q, k, v, heads)
    found = (y, *ops.attention_backward(saved, dy))
    assert {a.dtype for a in found} == {np.dtype(kind.dtype)}

    wide = [a.astype(np.float64) for a in arrays]
    y, saved = REFERENCE.attention(*wide[:3], heads)
    expected = (y, *REFERENCE.attention_backward(saved, wide[3]))
    q, k, v, dy = (REFERENCE._split(a, heads) for a in wide)
    p, scale, unit = saved[3], each**-0.5, kind.stored + kind.factors
    transposed, sums, terms = np.matrix_transpose, abs(q) @ np.matrix_transpose(abs(k)), max(each, keys, queries) + 20

    s_off = kind.stored * abs(q @ transposed(k)) + terms * kind.unit * sums
    p_off = p * (2 * scale * np.max(s_off, axis=-1, keepdims=True) + unit + terms * kind.unit)
    dp = dy @ transposed(v)
    dp_off = kind.stored * abs(dp) + terms * kind.unit * (abs(dy) @ transposed(abs(v)))
    along = np.sum(p * dp, axis=-1, keepdims=True)
    along_off = np.sum(p_off * abs(dp) + p * dp_off, axis=-1, keepdims=True)
    along_off += terms * kind.unit * np.sum(p * abs(dp), axis=-1, keepdims=True)
    ds = scale * p * (dp - along)
    ds_off = scale * (p_off * abs(dp - along) + p * (dp_off + along_off)) + (unit + 4 * kind.unit) * abs(ds)

    def product_off(a: Array, a_off: Array, b: Array) -> Array:
        off: Array = (a_off + terms * kind.unit * abs(a)) @ abs(b) + kind.stored * abs(a @ b)
        return off

    bounds = (
        product_off(p, p_off, v),
        product_off(ds, ds_off, k),
        product_off(transposed(ds), transposed(ds_off), q),
        product_off(transposed(p), transposed(p_off), dy),
    )
    for name, ours, right, bound in zip(("y", "dq", "dk", "dv"), found, expected, bounds, strict=True):
        assert_within(ops, ours, right, 2 * REFERENCE._merge(bound), f"{name} in {precision}")


@given(n=st.integers(1, 40), classes=st.integers(1, 5), width=st.integers(1, 9))
@settings(max_examples=10)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_embedding_backward(precision: str, machine: str, n: int, classes: int, width: int) -> None:
    """dtable is float32, and exact where sums of small integers are."""
    rng = np.random.default_rng(4)
    index, dy = rng.integers(0, classes, n), rng.integers(-8, 9, (n, width))
    ops = operations(precision, machine)
    saved = (ops.backend.asarray(index), classes)
    found = ops.backend.to_numpy(ops.embedding_backward(saved, moved(ops, dy.astype(KINDS[precision].dtype), 0)))
    assert found.dtype == np.float32
    expected = np.zeros((classes, width))
    np.add.at(expected, index, dy)
    np.testing.assert_array_equal(found, expected)
