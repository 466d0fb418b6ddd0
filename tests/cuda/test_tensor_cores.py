"""What the stand-in for tensor cores does, against the tables of the PTX ISA, and what it must notice."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from helpers.cuda_shim import COMPILER, ShimBackend

Array = np.ndarray[Any, Any]

SOURCE = """
extern __shared__ __align__(16) float shared[];
extern "C" __global__ void products_bf16(const unsigned* a, const unsigned* b, float* c) {
    mma_bf16(c + 4 * threadIdx.x, a + 4 * threadIdx.x, b[2 * threadIdx.x], b[2 * threadIdx.x + 1]);
}
extern "C" __global__ void products_tf32(const unsigned* a, const unsigned* b, float* c) {
    mma_tf32(c + 4 * threadIdx.x, a + 4 * threadIdx.x, b[2 * threadIdx.x], b[2 * threadIdx.x + 1]);
}
extern "C" __global__ void rounded(const float* x, unsigned* y) { y[threadIdx.x] = tf32(x[threadIdx.x]); }
extern "C" __global__ void matrices(const unsigned short* x, unsigned* plain, unsigned* transposed, int shift) {
    unsigned short* rows = (unsigned short*)shared;
    for (int i = 0; i < 8; i++) rows[8 * threadIdx.x + i] = x[8 * threadIdx.x + i];
    __syncthreads();
    load_matrices(plain + 4 * threadIdx.x, rows + 8 * threadIdx.x + shift);
    load_matrices_transposed(transposed + 4 * threadIdx.x, rows + 8 * threadIdx.x);
}
extern "C" __global__ void copies(const float* x, float* y, int shift) {
    begin_copy(shared, x + shift, 8);
    end_group();
    begin_copy(shared + 4, x + 4, 16);
    end_group();
    wait_for_groups<1>();
    for (int i = 0; i < 8; i++) y[i] = shared[i];
}
"""


def run(kernel: str, *arguments: object, threads: int = 32) -> None:
    if COMPILER is None:
        pytest.skip("there is no C++ compiler (g++ or clang++) to run the kernels with")
    ShimBackend().compile(SOURCE, ()).get_function(kernel)((1,), (threads,), arguments, shared_mem=1024)


def a_place(lane: int, i: int, depth: int) -> tuple[int, int]:
    """Row and column of a's element i in a lane (PTX ISA, figures of m16n8k16 .bf16 and m16n8k8 .tf32)."""
    group, thread = lane >> 2, lane % 4
    if depth == 16:
        row = group if i in (0, 1, 4, 5) else group + 8
        return row, thread * 2 + (i & 1) + (8 if i >= 4 else 0)
    return (group if i in (0, 2) else group + 8), (thread if i < 2 else thread + 4)


def b_place(lane: int, i: int, depth: int) -> tuple[int, int]:
    group, thread = lane >> 2, lane % 4
    if depth == 16:
        return thread * 2 + (i & 1) + (8 if i >= 2 else 0), group
    return thread + 4 * i, group


def c_place(lane: int, i: int) -> tuple[int, int]:
    return (lane >> 2) + (8 if i >= 2 else 0), lane % 4 * 2 + (i & 1)


@pytest.mark.parametrize(
    ("kernel", "depth", "dtype"), [("products_bf16", 16, ml_dtypes.bfloat16), ("products_tf32", 8, np.float32)]
)
def test_lanes_hold_what_the_tables_say(kernel: str, depth: int, dtype: Any) -> None:
    """a b + c of small integers, exact, scattered to the lanes and gathered from them by the tables."""
    rng = np.random.default_rng(1)
    a, b, c = (rng.integers(-8, 9, shape) for shape in ((16, depth), (depth, 8), (16, 8)))
    each_a, each_b = depth // 2, depth // 4
    a_lanes = np.array([[a[a_place(lane, i, depth)] for i in range(each_a)] for lane in range(32)], dtype)
    b_lanes = np.array([[b[b_place(lane, i, depth)] for i in range(each_b)] for lane in range(32)], dtype)
    c_lanes = np.array([[c[c_place(lane, i)] for i in range(4)] for lane in range(32)], np.float32)
    run(kernel, a_lanes.view(np.uint32), b_lanes.view(np.uint32), c_lanes)
    expected = a @ b + c
    np.testing.assert_array_equal(c_lanes, [[expected[c_place(lane, i)] for i in range(4)] for lane in range(32)])


def test_loading_matrices() -> None:
    """Lane l gets row l / 4, columns 2 (l % 4) and the next, of four 8 × 8 matrices; or of their transposes."""
    x = np.random.default_rng(2).integers(0, 2**16, (4, 8, 8)).astype(np.uint16)
    plain, transposed = np.empty((32, 4), np.uint32), np.empty((32, 4), np.uint32)
    run("matrices", x, plain, transposed, np.int32(0))
    for found, matrices in ((plain, x), (transposed, x.transpose(0, 2, 1))):
        pairs = np.ascontiguousarray(found).view(np.uint16).reshape(8, 4, 4, 2)  # (row, pair, matrix, number)
        np.testing.assert_array_equal(pairs.transpose(2, 0, 1, 3).reshape(4, 8, 8), matrices)


def test_rounding_to_tf32() -> None:
    """10 bits after the point, to nearest, ties away from zero."""
    step = 2.0**-10
    x = np.array([1, 1 + 0.49 * step, 1 + 0.5 * step, 1 + 1.5 * step, -1 - 0.5 * step, 0, np.inf, 3e-39], np.float32)
    y = np.empty(8, np.uint32)
    run("rounded", x, y, threads=8)
    expected = np.array([1, 1, 1 + step, 1 + 2 * step, -1 - step, 0, np.inf], np.float32)
    np.testing.assert_array_equal(y.view(np.float32)[:7], expected)
    assert abs(float(y.view(np.float32)[7]) - 3e-39) <= 2.0**-137


def test_copies_are_there_when_waited_for() -> None:
    """Of two groups the older is waited for: 8 bytes and zeros; what the other brings is not there yet."""
    x, y = np.arange(1, 9, dtype=np.float32), np.zeros(8, np.float32)
    run("copies", x, y, np.int32(0), threads=1)
    np.testing.assert_array_equal(y[:4], [1, 2, 0, 0])
    assert np.isnan(y[4:]).all()


def test_addresses_out_of_line_are_noticed() -> None:
    x = np.zeros((4, 8, 8), np.uint16)
    with pytest.raises(AssertionError, match="no multiple of 16"):
        run("matrices", x, np.empty((32, 4), np.uint32), np.empty((32, 4), np.uint32), np.int32(4))
    with pytest.raises(AssertionError, match="no multiple of 16"):
        run("copies", np.zeros(16, np.float32), np.zeros(8, np.float32), np.int32(2), threads=1)
