"""cuDNN's convolutions without a GPU: its real plans, made for a card that is not there, and what they compute."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes  # noqa: F401
import numpy as np
import pytest

from helpers.cuda_shim import COMPILER, ShimBackend
from helpers.cudnn_bench import REFERENCE, SHAPES, Bench
from helpers.runs import PICTURES, data_of
from tinyddpm.errors import BackendError
from tinyddpm.ops.cuda import cudnn, cudnn_frontend
from tinyddpm.ops.cuda.cudnn import CudnnConvolutions
from tinyddpm.ops.cuda.cudnn_frontend import Convolution, Product, tolerance
from tinyddpm.training.assembly import make_trainer

pytestmark = pytest.mark.usefixtures("cache")

H100 = {
    "deviceName": "NVIDIA H100 80GB HBM3", "deviceVer": 900, "driverVer": 13000, "cudaDeviceId": 0, "pciDeviceId": 0,
    "multiProcessorCount": 132, "warpSize": 32, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048,
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
    "maxRegistersPerSM": 65536, "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
    "reservedSharedMemoryPerBlock": 1024, "smClockRateKHz": 1980000, "memClockRateKHz": 2619000,
    "memoryBusWidth": 5120, "l2CacheSize": 52428800, "totalGlobalMem": 85_000_000_000, "isTccDriver": 0,
    "supportCoopLaunch": 1,
}  # fmt: skip
"""A card, as cuDNN's device properties have it."""

DDPM = [
    ((128, 32, 32, 3), (3, 3, 3, 128), 1), ((128, 32, 32, 128), (3, 3, 128, 128), 1),
    ((128, 32, 32, 128), (3, 3, 128, 128), 2), ((128, 16, 16, 512), (1, 1, 512, 256), 1),
    ((128, 8, 8, 512), (3, 3, 512, 256), 1), ((128, 4, 4, 256), (3, 3, 256, 256), 1),
    ((128, 32, 32, 128), (3, 3, 128, 3), 1),
]  # fmt: skip
"""Convolutions of DDPM's network for CIFAR-10, among them the first, the last, a shortcut and a halving."""

DRIVER = """
int cuGetErrorString() { return 100; } int cuModuleGetFunction() { return 100; } int cuModuleLoadData() { return 100; }
int cuModuleUnload() { return 100; } int cuTensorMapEncodeIm2col() { return 100; }
int cuTensorMapEncodeTiled() { return 100; }
"""
"""What cuDNN's libraries need of a driver to be loaded: functions that all say that there is no device."""


def print_real_plans() -> None:
    """Print, for each convolution and precision, how many plans can be built; run in a process of its own."""
    frontend = cudnn_frontend.load_cudnn()
    assert frontend is not None
    device = frontend.create_device_properties(json.dumps(H100))
    for precision in ("fp32", "tf32", "bf16"):
        for wanted in ("y", "y + residual", "dx", "dw"):
            for x, w, stride in [*SHAPES, *DDPM]:
                problem = Convolution(wanted, x, w, stride, precision)
                plans = cudnn_frontend.Plans(frontend, problem, device_property=device)
                built = sum(map(plans.build, range(len(plans.names))))
                print(json.dumps([*problem, built, len(plans.names)]))


def test_real_cudnn_has_plans_for_an_h100(tmp_path: Path) -> None:
    """Every convolution in every precision, y with its bias; in "fp32" fewer plans, for those on tensor cores go.

    With a residual it has no fewer: the kernels that add a bias add both.
    """
    if find_spec("cudnn") is None:
        pytest.skip("nvidia-cudnn-frontend is not installed")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        if COMPILER is None:
            pytest.skip("there is neither a driver's libcuda.so.1 nor a compiler to make one that does nothing")
        command = [COMPILER, "-shared", "-fPIC", "-xc", "-", "-o", str(tmp_path / "libcuda.so.1")]
        subprocess.run(command, input=DRIVER, text=True, check=True)
        environment["LD_LIBRARY_PATH"] = os.pathsep.join([str(tmp_path), os.environ.get("LD_LIBRARY_PATH", "")])
    code = f"import runpy; runpy.run_path({__file__!r})['print_real_plans']()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == 12 * len([*SHAPES, *DDPM])
    assert [line for line in lines if line[-2] == 0] == []
    plans = {wanted: [line[1:] for line in lines if line[0] == wanted] for wanted in ("y", "y + residual")}
    assert plans["y + residual"] == plans["y"]
    counts = {precision: sum(line[-2] for line in lines if line[4] == precision) for precision in ("fp32", "tf32")}
    assert counts["fp32"] < counts["tf32"] / 2


# How plans are chosen and used.


def askew_by_one(array: np.ndarray) -> np.ndarray:
    """Return a view one element into a buffer."""
    return np.concatenate([array.ravel()[:1], array.ravel()])[1:].reshape(array.shape)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize(("x", "w", "stride"), SHAPES, ids=str)
def test_gives_the_reference(
    monkeypatch: pytest.MonkeyPatch,
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: int,
    precision: str,
    residual: bool,
) -> None:
    """With the layouts and paddings that the graphs describe; bias and dw are rounded to bfloat16 in "bf16"."""
    bench = Bench(monkeypatch, "right 1", precision=precision)
    bench.residual = residual
    bench.compare(x, w, stride, rtol=2**-8 if precision == "bf16" else 1e-6)
    before = len(bench.backend.launched)
    bench.compare(x, w, stride, rtol=2**-8 if precision == "bf16" else 1e-6)
    assert {name for name in bench.backend.launched[before:] if name.startswith("convolution")} == set()


@pytest.mark.parametrize(("c_out", "askew"), [(72, False), (72, True), (41, False)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_db_of_many_rows_and_channels(monkeypatch: pytest.MonkeyPatch, precision: str, c_out: int, askew: bool) -> None:
    """Three chunks of rows, the last one shorter, of blocks of channels, more than once: the count begins anew.

    Channels come by packs and, where there are none or dy lies one number into a buffer, one by one.
    """
    bench = Bench(monkeypatch, "right 1", precision=precision)
    if askew:
        bench.place = askew_by_one
    for _ in range(3):
        bench.compare((1, 25, 25, 3), (1, 1, 3, c_out), 1, rtol=2**-8 if precision == "bf16" else 1e-6)
    assert {"turned_gradients", "sum_of_parts"} & set(bench.backend.launched[-3:]) == {"turned_gradients"}
    assert not bench.ops._arrived.any()


def test_dw_of_too_many_channels_is_left_to_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel that completes a plan's dw has counters for so many, and no more."""
    monkeypatch.setattr(cudnn, "MOST_CHANNELS", 8)
    bench = Bench(monkeypatch, "right 1")
    for c_out in (8, 9):
        bench.compare((2, 3, 4, 2), (3, 3, 2, c_out), 1)
    planned = [(problem.wanted, problem.w[3]) for problem in bench.planner.choices]
    assert planned == [("y", 8), ("dx", 8), ("dw", 8), ("y", 9), ("dx", 9)]


def test_what_is_left_to_do_for_a_plan_is_timed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of dw, the kernel that turns it; of y and dx nothing."""
    bench, timed = Bench(monkeypatch, "right 1"), []

    def milliseconds(run: Callable[[], object]) -> float:
        before = len(bench.backend.launched)
        run()
        timed.append(bench.backend.launched[before:])
        return 1.0

    monkeypatch.setattr(bench.card, "milliseconds", milliseconds)
    bench.compare(*SHAPES[0])
    assert timed == [[], ["convolution_forward"], [], ["convolution_dx"], ["turned_gradients"], ["convolution_dw"]]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trains_as_with_own_kernels(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Three steps of a U-Net with every convolution by a plan: losses and gradients' norms within what rounding makes.

    In bf16 no bias is cast by itself: those of the packed copy are found.
    """
    settings, dataset = PICTURES, data_of(PICTURES)
    own = make_trainer(settings, ShimBackend(precision=precision), dataset)
    bench = Bench(monkeypatch, "right 1", precision=precision)
    ours = make_trainer(settings, bench.backend, dataset)
    cast, kept = [], CudnnConvolutions._stored_bias

    def watched(ops: CudnnConvolutions, b: np.ndarray, dtype: np.dtype) -> np.ndarray:
        found = kept(ops, b, dtype)
        cast.append(np.shares_memory(found, b) or any(found is pair[1] for pair in ops._biases.values()))
        return found

    monkeypatch.setattr(CudnnConvolutions, "_stored_bias", watched)
    rtol = 2**-6 if precision == "bf16" else 1e-4
    for _ in range(3):
        a, b = ours.train_step(), own.train_step()
        assert a.loss == pytest.approx(b.loss, rel=rtol)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=rtol)
    assert cast
    assert all(cast)
    launched = set(bench.backend.launched)
    assert "turned_gradients" in launched
    assert "sum_of_parts" not in launched


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_products_of_attention_are_plans(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Of one head, each form of product by a plan: what the reference gives, as plans that miss a number do not."""
    monkeypatch.setattr(cudnn, "LEAST_PRODUCT", 1)
    bench = Bench(monkeypatch, "skips", "right 1", precision=precision)
    for _ in range(2):
        launched = attend(bench, (2, 6, 5, 7), heads=1, rtol=2**-7 if precision == "bf16" else 1e-5)
    assert launched == ["softmax_forward", "softmax_backward"]
    chosen = {problem: choice.name for problem, choice in bench.planner.choices.items()}
    assert chosen == {
        Product("abt", 2, 6, 5, 7, precision): "right 1",  # q k^T, and dy v^T
        Product("ab", 2, 6, 7, 5, precision): "right 1",  # p v, and ds k
        Product("atb", 2, 5, 7, 6, precision): "right 1",  # p^T dy, and ds^T q
    }


@pytest.mark.parametrize(("heads", "least"), [(2, 1), (1, cudnn.LEAST_PRODUCT)])
def test_other_products_are_not_planned(monkeypatch: pytest.MonkeyPatch, heads: int, least: int) -> None:
    """Those of several heads, for which cuDNN has no plan, and small ones."""
    monkeypatch.setattr(cudnn, "LEAST_PRODUCT", least)
    bench = Bench(monkeypatch, "right 1")
    launched = attend(bench, (2, 6, 5, 4), heads, rtol=1e-5)
    assert sum(name.startswith("product_") for name in launched) == 6
    assert bench.planner.choices == {}


def attend(bench: Bench, sides: tuple[int, int, int, int], heads: int, rtol: float) -> list[str]:
    """Check attention of (N, L, M, C) and its gradients against the reference in float64; return what was launched."""
    (n, queries, keys, c), rng = sides, np.random.default_rng(4)
    dtype = np.dtype("bfloat16" if bench.backend.precision == "bf16" else "float32")
    q, k, v, dy = (rng.normal(size=(n, length, c)).astype(dtype) for length in (queries, keys, keys, queries))
    before = len(bench.backend.launched)
    y, saved = bench.ops.attention(q, k, v, heads)
    found = (y, *bench.ops.attention_backward(saved, dy))
    expected, saved = REFERENCE.attention(*(a.astype(float) for a in (q, k, v)), heads)
    right = (expected, *REFERENCE.attention_backward(saved, dy.astype(float)))
    for a, b in zip(found, right, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.astype(float), b, rtol=0, atol=rtol * np.abs(b).max())
    return bench.backend.launched[before:]


@pytest.mark.parametrize(("stride", "wanted"), [(1, ["y", "y + residual"]), (2, ["y", "dx"])])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dx_and_what_else_reaches_x(
    monkeypatch: pytest.MonkeyPatch, precision: str, stride: int, wanted: list[str]
) -> None:
    """Of a large linear map both are the y of one plan; of a convolution that skips pixels, dx's plan and a sum."""
    monkeypatch.setattr(cudnn, "LEAST_PRODUCT", 1)
    bench, rng = Bench(monkeypatch, "right 1", precision=precision), np.random.default_rng(4)
    dtype = np.dtype("bfloat16" if precision == "bf16" else "float32")
    x, w, added = (rng.normal(size=shape).astype(dtype) for shape in ((2, 5, 4, 6), (1, 1, 6, 3), (2, 5, 4, 6)))
    y, saved = bench.ops.conv2d(x, w, np.zeros(3, np.float32), stride)
    dx, *_ = bench.ops.conv2d_backward(saved, y, added=(added,))
    _, exact = REFERENCE.conv2d(x.astype(float), w.astype(float), np.zeros(3), stride)
    expected = REFERENCE.conv2d_backward(exact, y.astype(float))[0] + added.astype(float)
    rtol = 2**-7 if precision == "bf16" else 1e-6
    np.testing.assert_allclose(dx.astype(float), expected, rtol=0, atol=rtol * np.abs(expected).max())
    assert [problem.wanted for problem in bench.planner.choices] == [*wanted, "dw"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_takes_arrays_that_lie_askew(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Views one element into a buffer, as parameters are; cuDNN reads 16 bytes at a time."""
    bench = Bench(monkeypatch, "right 1", precision=precision)
    bench.residual = True
    bench.place = askew_by_one
    bench.compare(*SHAPES[0], rtol=2**-8 if precision == "bf16" else 1e-6)


@pytest.mark.parametrize("wanted", ["y", "y + residual", "dx", "dw"])
def test_tolerance_holds_what_is_right_and_little_else(rng: np.random.Generator, wanted: str) -> None:
    """For K from 9 to 18433 terms: a float32 sum in any order is within, one that lacks a few terms is not."""
    for side in (1, 8, 32):
        problem = Convolution(wanted, (2, side * 3, side * 3, side * side), (3, 3, side * side, side * side), 1, "fp32")
        terms = 18 * side * side if wanted == "dw" else 9 * side * side + {"y": 1, "y + residual": 2}.get(wanted, 0)
        absolute, relative = tolerance(problem)
        products = rng.normal(size=(200, terms)) * rng.normal(size=(200, terms))
        exact, sums = products.sum(1), np.cumsum(products.astype(np.float32), axis=1, dtype=np.float32)[:, -1]
        assert relative == 0
        assert np.all(np.abs(sums - exact) <= absolute)
        few = 1 + terms // 2000
        assert np.abs(products[:, :few].sum(1)).max() > absolute


def test_tolerance_holds_sums_that_are_rounded_to_bfloat16(rng: np.random.Generator) -> None:
    """A million of 289 terms, in two orders: all are within, where without the last unit's other half some are not.

    Of most sums one that lacks a term is not: a term is 0.6 in the mean, and the tolerance of the mean sum 0.1.
    """
    absolute, relative = tolerance(Convolution("y", (1000, 1, 1, 32), (3, 3, 32, 1000), 1, "bf16"))
    a, b = (rng.normal(size=(1000, 289)).astype("bfloat16").astype(np.float32) for _ in range(2))
    b = b.T
    blocks = [a[:, i : i + 32] @ b[i : i + 32] for i in range(0, 289, 32)]
    sums = a @ b, sum(blocks[::-1]), sum(blocks[:-1])
    one, other, lacking = (y.astype("bfloat16").astype(np.float32) for y in sums)
    assert np.all(np.abs(one - other) <= absolute + relative * np.abs(other))
    assert np.any(np.abs(one - other) > absolute + relative / 2 * np.abs(other))
    assert np.mean(np.abs(one - lacking) > absolute + relative * np.abs(lacking)) > 0.5


# On the stand-in for CuPy: how plans are timed.


# Without cuDNN, or with half of it.


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert cudnn_frontend.cudnn_line() == "no cuDNN (own convolution kernels)"
    backend = ShimBackend()
    backend.device = SimpleNamespace(id=0)
    assert CudnnConvolutions(backend)._planner is None


def test_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(backend_version=lambda: 92801, backend_version_string=lambda: "9.28.1")
    monkeypatch.setitem(sys.modules, "cudnn", found)
    assert cudnn_frontend.cudnn_line() == "cuDNN 9.28.1"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("Unable to find symbol cudnnGetVersion", "the cuDNN frontend finds no cuDNN library: run pip install"),
        ("Unable to load any libcudart.so.* library.", "the cuDNN frontend finds no libcudart.so: run pip install"),
        ("Multiple libcudart libraries found: libcudart.so.12 and libcudart.so.13", "of both CUDA 12 and CUDA 13"),
    ],
)
def test_half_an_installation_is_explained(monkeypatch: pytest.MonkeyPatch, said: str, line: str) -> None:
    def backend_version() -> int:
        raise RuntimeError(said)

    monkeypatch.setitem(sys.modules, "cudnn", SimpleNamespace(backend_version=backend_version))
    with pytest.raises(BackendError, match=line) as raised:
        cudnn_frontend.load_cudnn()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["ImportError", "OSError", "AssertionError"])
def test_a_package_that_cannot_be_loaded_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "cudnn.py").write_text(f"raise {kind}('libcudnn.so.9:\\n no such file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cudnn", raising=False)
    with pytest.raises(BackendError, match=r"cannot be loaded \(libcudnn.so.9: no such file\): run pip install"):
        cudnn_frontend.load_cudnn()


@pytest.mark.parametrize("found", [True, False])
def test_cudas_runtime_is_loaded_first(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    """By NVIDIA's search in wheels, if it is installed; where that finds none, the frontend may."""
    loaded = []

    def load(name: str) -> None:
        loaded.append(name)
        if not found:
            raise RuntimeError(f"no {name}")

    frontend = SimpleNamespace(backend_version=lambda: loaded.append("cudnn"))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", SimpleNamespace(load_nvidia_dynamic_lib=load))
    monkeypatch.setitem(sys.modules, "cudnn", frontend)
    assert cudnn_frontend.load_cudnn() is frontend
    assert loaded == ["cudart", "cudnn"]


def test_two_runtimes_are_told_at_the_first_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frontend opens CUDA's library late: that is no plan's fault."""
    bench = Bench(monkeypatch, "two runtimes")
    with pytest.raises(BackendError, match="of both CUDA 12 and CUDA 13"):
        bench.compare(*SHAPES[0])


def test_other_errors_are_not_explained_away() -> None:
    with pytest.raises(RuntimeError, match="CUDNN_STATUS_INTERNAL_ERROR"), cudnn_frontend.explained():
        raise RuntimeError("CUDNN_STATUS_INTERNAL_ERROR")
