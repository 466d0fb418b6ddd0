"""The kernels themselves: they compile for the cards there are, and the stand-in for threads notices faults."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from functools import cache
from itertools import product

import ml_dtypes
import numpy as np
import pytest

from helpers.cuda_shim import COMPILER, KERNEL, LIBRARIES, ShimBackend
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.geometry import Geometry
from tinyddpm.ops.cuda.kernels import FAMILIES, FOLDER, OPTIONS, STORAGE, Kernels, source

KERNELS = {family: KERNEL.findall(source(family)) for family in FAMILIES}
FLUSHED = "-ftz=true"
CUPYS_OPTIONS = ("--device-as-default-execution-space", FLUSHED)
"""What CuPy adds to the options: without the first NVRTC refuses lambdas, by the second denormal float32 becomes 0."""

NORMS = {
    (128, 2): (True, True, False),
    (128, 4): (True, True, True),
    (64, 4): (False, True, True),
    (32, 4): (True, False, False),
}
"""Sides and stages of tiles, and what norms are compiled with beside each: a tile, SiLU, a mask."""

NVCC = shutil.which("gcc") and (shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc"))  # nvcc calls gcc


def test_families_are_the_files() -> None:
    assert sorted(FAMILIES) == sorted(path.stem for path in FOLDER.glob("*.cu"))
    assert all(KERNELS.values())
    assert "#include" not in "".join(map(source, FAMILIES))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("storage", "side", "stages", "arch"),
    [
        (storage, side, stages, ("sm_80", "sm_90")[number % 2])
        for number, (storage, (side, stages)) in enumerate(product(STORAGE, NORMS))
    ],
)
def test_all_kernels_compile(arch: str, storage: str, side: int, stages: int) -> None:
    """To machine code, by NVRTC where CuPy is there (no driver is needed), else by nvcc; every kernel is in it.

    Of cards, storages and tiles, every two meet; the kernels' source does not ask for which card it is compiled.

    Options are those that kernels have where CuPy compiles them, by which denormals are flushed to zero: what is less
    than 2⁻¹²⁶ counts as 0, as it does not on the CPU.
    """
    options = [
        *OPTIONS,
        *STORAGE[storage],
        *geometry.product_options(side, stages),
        *geometry.norm_options(*NORMS[side, stages]),
    ]
    try:
        from cupy.cuda import nvrtc
    except ImportError:
        if NVCC is None:
            pytest.skip("there is neither CuPy's NVRTC nor nvcc with gcc to compile with")
        code = dict.fromkeys(FAMILIES, compiled_by_nvcc(f"-arch={arch}", *options, FLUSHED))
    else:
        code = {}
        for family in FAMILIES:
            program = nvrtc.createProgram(source(family), f"{family}.cu", [], [])
            try:
                nvrtc.compileProgram(program, [f"--gpu-architecture={arch}", *options, *CUPYS_OPTIONS])
            except nvrtc.NVRTCError:
                pytest.fail(f"{family}.cu: {nvrtc.getProgramLog(program)}")
            code[family] = nvrtc.getCUBIN(program)
    for family, kernels in KERNELS.items():
        for kernel in kernels:
            assert f".text.{kernel}".encode() in code[family], kernel


def compiled_by_nvcc(*options: str) -> bytes:
    """Return the machine code of all families, compiled once for each source, compiler and options: it is kept."""
    command = [str(NVCC), "-cubin", "-Werror", "all-warnings", *options]
    digest = hashlib.sha256(repr((command, nvcc_version(), [source(family) for family in FAMILIES])).encode())
    target = LIBRARIES / f"{digest.hexdigest()}.cubin"
    if not target.exists():
        LIBRARIES.mkdir(parents=True, exist_ok=True)
        made = target.with_suffix(f".{os.getpid()}")
        text = "".join(f'#include "{FOLDER / family}.cu"\n' for family in FAMILIES)
        command += ["-x", "cu", "-", "-o", str(made)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        made.replace(target)
    return target.read_bytes()


@cache
def nvcc_version() -> str:
    return subprocess.run([str(NVCC), "--version"], capture_output=True, text=True, check=True).stdout


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the bits of `values` rounded to bfloat16, as ml_dtypes rounds."""
    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


def widened(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_bfloat16_is_rounded_to_nearest_even(shim: ShimBackend) -> None:
    """Of products of every kind: normal, ties, subnormal, overflowing, infinite, not a number."""
    rng = np.random.default_rng(1)
    patterns = rng.integers(0, 2**16, 4000, np.uint16)
    patterns[:6] = [0, 0x8000, 0x7F7F, 0x7F80, 0xFF80, 0x7FC0]
    y, factor = np.empty_like(patterns), 3.3
    where, size = geometry.packs(4000, 2), np.int64(4000)
    Kernels(shim).launch("loss", "error_gradient", "bfloat16", where, patterns, y, factor, size)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = widened(patterns) * np.float32(factor)
    np.testing.assert_array_equal(widened(y), widened(bfloat16(expected)))


# The stand-in itself: what it must notice.

FAULTY = """
extern __shared__ float shared[];
extern "C" __global__ void past_the_end(float* x, int n) { if (threadIdx.x <= n) x[threadIdx.x] = 1; }
extern "C" __global__ void before_the_start(float* x, int n) { if (threadIdx.x < n) x[(int)threadIdx.x - 1] = 1; }
extern "C" __global__ void past_shared(float* x, int n) { shared[threadIdx.x] = 1; }
extern "C" __global__ void half_a_barrier(float* x, int n) { if (threadIdx.x < n) __syncthreads(); }
extern "C" __global__ void half_a_shuffle(float* x, int n) { if (threadIdx.x < n) __shfl_xor_sync(~0u, 1.0f, 1); }
extern "C" __global__ void without_barrier(float* x, int n) {
    shared[threadIdx.x] = threadIdx.x;
    x[threadIdx.x] = shared[(threadIdx.x + 1) % n];
}
extern "C" __global__ void with_barrier(float* x, int n) {
    shared[threadIdx.x] = threadIdx.x;
    __syncthreads();
    x[threadIdx.x] = shared[(threadIdx.x + 1) % n];
}
"""


def run_faulty(shim: ShimBackend, name: str, n: int, *more: object) -> np.ndarray:
    x = np.zeros(40, np.float32)
    shim.compile(FAULTY, ()).get_function(name)((1,), (40,), (x, np.int32(n), *more), shared_mem=40 * 4)
    return x


@pytest.mark.parametrize(
    ("name", "n", "fault"),
    [
        ("past_the_end", 40, None),
        ("before_the_start", 40, "writes outside argument 0"),
        ("half_a_barrier", 39, "has a barrier that not all threads reach"),
        ("half_a_shuffle", 39, "has a barrier that not all threads reach"),
    ],
)
def test_faults_are_noticed(shim: ShimBackend, name: str, n: int, fault: str | None) -> None:
    if fault is None:
        x, kernel = np.zeros(39, np.float32), shim.compile(FAULTY, ()).get_function(name)
        with pytest.raises(AssertionError, match="writes outside argument 0"):
            kernel((1,), (40,), (x, np.int32(39)), shared_mem=0)
        return
    with pytest.raises(AssertionError, match=fault):
        run_faulty(shim, name, n)


def test_writing_behind_shared_memory_is_noticed(shim: ShimBackend) -> None:
    kernel = shim.compile(FAULTY, ()).get_function("past_shared")
    with pytest.raises(AssertionError, match="writes behind its shared memory"):
        kernel((1,), (40,), (np.zeros(40, np.float32), np.int32(40)), shared_mem=39 * 4)


def test_barriers_are_real(shim: ShimBackend) -> None:
    """With a barrier a thread reads what its neighbour wrote; without one, what was there before."""
    np.testing.assert_array_equal(run_faulty(shim, "with_barrier", 40), np.roll(np.arange(40), -1))
    assert np.isnan(run_faulty(shim, "without_barrier", 40)).any()


def test_threads_run_in_either_order(shim: ShimBackend) -> None:
    """Without a barrier, a thread's neighbour has written before it in some launches, and has not in others."""
    lacking = {int(np.isnan(run_faulty(shim, "without_barrier", 40)).sum()) for _ in range(30)}
    assert lacking == {1, 39}


@pytest.mark.parametrize("arguments", [(np.int64(40),), (np.float32(40),), (np.int32(40), np.int32(1))], ids=str)
def test_arguments_of_another_type_are_noticed(shim: ShimBackend, arguments: tuple[np.generic, ...]) -> None:
    kernel = shim.compile(FAULTY, ()).get_function("with_barrier")
    with pytest.raises(AssertionError, match=r"of another type|takes 2 arguments"):
        kernel((1,), (40,), (np.zeros(40, np.float32), *arguments), shared_mem=160)


def test_launch_refuses_arrays_that_are_not_contiguous(shim: ShimBackend) -> None:
    x = np.zeros((4, 4), np.float32)
    with pytest.raises(ValueError, match="not contiguous"):
        Kernels(shim).launch("activation", "silu_forward", "float32", Geometry((1,), (16,)), x.T, x, np.int64(16))


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler (g++ or clang++) to run the kernels with")
def test_a_wrong_index_in_a_kernel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison would see a kernel that is off by one: SiLU that leaves out the last element."""
    from tinyddpm.ops.cuda import kernels
    from tinyddpm.ops.cupy_operations import CupyOperations

    monkeypatch.setattr(kernels, "source", lambda family: source(family).replace("i < size &&", "i + 1 < size &&"))
    y, _ = CupyOperations(ShimBackend()).silu(np.ones(5, np.float32))
    assert np.isnan(y[4])
    assert not np.isnan(y[:4]).any()
