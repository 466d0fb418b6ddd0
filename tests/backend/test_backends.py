"""The backends: moving data, computing without gradients, and saying precisely why one cannot be used."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import array_api_compat.numpy
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tinyddpm import registry
from tinyddpm.backend import Backend, Purpose, clipped, load_backend, processor
from tinyddpm.backend.cupy_backend import CupyBackend
from tinyddpm.backend.memory import keep_freed_memory
from tinyddpm.backend.numba_backend import OLDEST, NumbaBackend
from tinyddpm.backend.numpy_backend import NumpyBackend
from tinyddpm.backend.torch_backend import TorchBackend
from tinyddpm.errors import BackendError, OutOfMemoryError

pytestmark = pytest.mark.filterwarnings("error")


def error_line(backend: type[Backend], device: str | None = None) -> str:
    """Return the error of a backend that cannot be used; it must be one line."""
    with pytest.raises(BackendError) as raised:
        backend(device)
    line = str(raised.value)
    assert "\n" not in line
    return line


# What all backends keep.


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_data_goes_there_and_back(other_backend: Backend, dtype: str) -> None:
    host = np.arange(6).reshape(2, 3).astype(dtype)
    array = other_backend.asarray(host)
    assert array.shape == (2, 3)
    back = other_backend.to_numpy(array)
    assert isinstance(back, np.ndarray)
    np.testing.assert_array_equal(back, host, strict=True)
    np.testing.assert_array_equal(other_backend.to_numpy(other_backend.asarray(array)), host, strict=True)


def test_asarray_takes_scalars_lists_and_a_type(other_backend: Backend) -> None:
    xp = other_backend.xp
    values = other_backend.asarray([1, 2], xp.float32)
    assert values.dtype == xp.float32
    np.testing.assert_array_equal(other_backend.to_numpy(values), np.asarray([1, 2], np.float32), strict=True)
    assert other_backend.to_numpy(other_backend.asarray(3, xp.float64)) == np.asarray(3.0)


def test_arrays_meet_random_numbers_on_the_device(other_backend: Backend) -> None:
    """Data, random numbers and results are of one library and device, so that they combine."""
    with other_backend.scope():
        noise = other_backend.random(0).normal(Purpose.NOISE, 0, [0, 1], (3,))
        total = noise + other_backend.asarray(np.ones((2, 3), np.float32))
        other_backend.synchronize()
    expected = load_backend("numpy").random(0).normal(Purpose.NOISE, 0, [0, 1], (3,)) + 1
    np.testing.assert_allclose(other_backend.to_numpy(total), expected, rtol=1e-6, atol=1e-6)


def test_description_is_one_line_that_begins_with_the_name(other_backend: Backend) -> None:
    line = other_backend.describe()
    assert line.startswith(other_backend.name)
    assert "\n" not in line


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")])
def test_memory_that_runs_out_is_one_line(error: Exception) -> None:
    """Of both kinds in Torch's scope; what is no lack of memory passes through."""
    backend = TorchBackend()
    with pytest.raises(OutOfMemoryError) as raised, backend.scope():
        raise error
    line = str(raised.value)
    assert line.startswith(f"out of memory on {backend.describe()}, with ")
    assert line.endswith(" GiB in use: take fewer samples at a time with a smaller --batch-size")
    assert "\n" not in line
    assert raised.value.__cause__ is error
    with pytest.raises(RuntimeError, match=r"^another$"), backend.scope():
        raise RuntimeError("another")


def test_cupys_lack_of_memory_is_pythons() -> None:
    """Which is what the CuPy backend takes it for."""
    memory = pytest.importorskip("cupy.cuda.memory", reason="CuPy is not installed")
    assert issubclass(memory.OutOfMemoryError, CupyBackend.memory_errors)


@pytest.mark.parametrize("made", [lambda device: load_backend("numpy"), int, 3])
def test_what_is_no_class_of_backends_is_refused(made: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda group, name: made)
    with pytest.raises(BackendError, match=r"backend 'odd' is .*: register a class, a subclass of tinyddpm.backend"):
        load_backend("odd")


@pytest.mark.parametrize(("name", "there"), [("numpy", "fp32"), ("torch", "fp32, tf32, bf16")])
def test_precision_unknown(name: str, there: str) -> None:
    with pytest.raises(BackendError) as raised:
        load_backend(name, precision="fp7")
    assert str(raised.value) == f"the {name} backend has no precision 'fp7': there is {there}"


# NumPy.


def test_numpy_describes_its_library() -> None:
    line = NumpyBackend("cpu").describe()
    assert line.startswith(f"numpy {np.__version__} on cpu, ")
    assert re.search(r"\((\w+ kernels( as OPENBLAS_CORETYPE wants)?, )?threads: \d+\)", line)


def test_numpy_describes_a_blas_whose_kernels_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {"user_api": "blas", "internal_api": "mkl", "version": None, "num_threads": 3}
    monkeypatch.setattr("tinyddpm.backend.numpy_backend.threadpool_info", lambda: [pool])
    assert NumpyBackend().describe().endswith(", mkl of unknown version (threads: 3)")


@pytest.mark.parametrize(
    ("features", "function"),
    [
        ({"AVX2": True, "AVX512_SKX": True}, "tanh"),
        ({"AVX2": True, "AVX512_SKX": False}, "exp"),
        ({"AVX2": False, "AVX512_SKX": False}, "tanh"),
        ({"NEON": True}, "tanh"),
    ],
)
def test_silu_is_computed_by_what_the_processor_does_faster(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], function: str
) -> None:
    monkeypatch.setattr(processor, "features", features)
    assert f" on cpu, SiLU by {function}, " in NumpyBackend().describe()


def test_numpy_knows_only_the_cpu() -> None:
    assert error_line(NumpyBackend, "cuda:1").startswith("the numpy backend has no device 'cuda:1'")


# Numba.


def test_numba_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    line = error_line(NumbaBackend)
    assert line.startswith("Numba cannot be imported (")
    assert line.endswith("): run pip install -U 'numba>=0.64'")


def test_numba_that_does_not_know_this_numpy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It says so itself when it is imported."""
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.3 or less.\\nGot NumPy 2.4.')")
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    line = error_line(NumbaBackend)
    assert line.startswith("Numba cannot be imported (Numba needs NumPy 2.3 or less. Got NumPy 2.4.): run pip install")


@pytest.mark.parametrize("version", ["0.63.1", "0.9.0", "0.63.0rc1"])
def test_numba_too_old(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace(__version__=version))
    assert error_line(NumbaBackend) == f"Numba {version} is too old: run pip install -U 'numba>=0.64'"


@pytest.mark.parametrize("version", ["0.64.0", "0.64.0rc1", "0.100.2", "1.0.0"])
def test_numba_new_enough(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """It is named before the line of NumPy, whose arrays these are."""
    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace(__version__=version))
    assert NumbaBackend().describe() == f"numba {version}, {NumpyBackend().describe()}"


def test_numba_is_asked_for_in_the_version_that_is_taken() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["numba"] == [f"numba>={OLDEST}"]


# Torch.


def test_torch_describes_its_library() -> None:
    line = TorchBackend(precision="bf16").describe()
    assert line.startswith(f"torch {torch.__version__} on cpu (threads: ")
    assert line.endswith("), bf16")


def test_torch_never_records_gradients() -> None:
    """Even where the caller records them: that changes neither the data taken over nor what is computed in scope."""
    backend = TorchBackend()
    weight = torch.nn.Parameter(torch.ones(3))
    with torch.enable_grad():
        assert (2 * weight).requires_grad
        assert not backend.asarray(weight).requires_grad
        assert not backend.asarray(2 * weight).requires_grad
        np.testing.assert_array_equal(backend.to_numpy(weight), np.ones(3, np.float32))
        with backend.scope():
            assert not (2 * weight).requires_grad
        assert weight.requires_grad


@pytest.mark.parametrize("writeable", [True, False])
@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[::2], np.s_[:]])
def test_torch_takes_host_arrays_of_any_layout(view: slice, writeable: bool) -> None:
    """Reversed, strided and read-only memory, of which Torch refuses the first and warns of the last."""
    host = np.arange(6.0)[view]
    host.flags.writeable = writeable
    np.testing.assert_array_equal(TorchBackend().asarray(host).numpy(), host)


def switches() -> tuple[bool, bool, bool]:
    """Whether a GPU multiplies in TF32, convolves in it, and sums in bfloat16; the switches are there without one."""
    matmul = torch.backends.cuda.matmul
    return matmul.allow_tf32, torch.backends.cudnn.allow_tf32, matmul.allow_bf16_reduced_precision_reduction


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_torch_multiplies_in_its_precision_in_scope_alone(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """All switches, on a GPU that is pretended, and put back where something fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    before = switches()
    backend = load_backend("torch", "cuda", precision)
    with backend.scope():
        assert switches() == (precision == "tf32", precision == "tf32", False)
    assert switches() == before
    with pytest.raises(KeyError), backend.scope():
        raise KeyError
    assert switches() == before


@pytest.mark.parametrize(("precision", "storage"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_torch_stores_in_its_own_types(precision: str, storage: torch.dtype) -> None:
    assert load_backend("torch", precision=precision).storage is storage


def test_torch_has_no_tf32_on_a_cpu() -> None:
    with pytest.raises(BackendError, match=r"^precision 'tf32' is of NVIDIA GPUs alone"):
        load_backend("torch", precision="tf32")


def test_torch_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    line = error_line(TorchBackend)
    assert line.startswith("Torch cannot be imported")
    assert line.endswith("run pip install 'tinyddpm[torch]'")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "mps", "meta"])
def test_torch_device_unknown(device: str) -> None:
    line = error_line(TorchBackend, device)
    assert repr(device) in line
    assert "use 'cpu', 'cuda' or 'cuda:N'" in line


@pytest.mark.parametrize(
    ("built_for", "why"), [(None, "this Torch is built without CUDA"), ("13.0", "Torch finds no NVIDIA driver and GPU")]
)
def test_torch_without_cuda(monkeypatch: pytest.MonkeyPatch, built_for: str | None, why: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    assert error_line(TorchBackend, "cuda") == f"device 'cuda' is not available: {why}; use --device cpu"


def test_torch_gpu_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert error_line(TorchBackend, "cuda:2") == "device 'cuda:2' does not exist: there are 2 GPUs, cuda:0 to cuda:1"


# CuPy, as it fails where there is no GPU.


class CUDARuntimeError(RuntimeError):
    """Raises as CuPy's own class of this name does: `name of the error: its description`."""


def fake_cupy(monkeypatch: pytest.MonkeyPatch, driver: int | str, devices: int | str) -> None:
    """Install a module cupy whose runtime returns these numbers, or raises where they are texts."""

    def answer(value: int | str) -> int:
        if isinstance(value, str):
            raise CUDARuntimeError(value)
        return value

    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        driverGetVersion=lambda: answer(driver),
        runtimeGetVersion=lambda: 13000,
        getDeviceCount=lambda: answer(devices),
    )
    module: Any = ModuleType("cupy")
    module.cuda = SimpleNamespace(runtime=runtime)
    monkeypatch.setitem(sys.modules, "cupy", module)


INSUFFICIENT_DRIVER = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
NO_DEVICE = "cudaErrorNoDevice: no CUDA-capable device is detected"


def test_cupy_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendError, match=r"^CuPy is not installed .*'tinyddpm\[cuda12\]' or 'tinyddpm\[cuda13\]'"):
        load_backend("cupy")


def test_cupy_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('libnvrtc.so.13:\\ncannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    line = error_line(CupyBackend)
    assert line.startswith("CuPy is installed but cannot be imported (libnvrtc.so.13: cannot open shared object file)")


def test_cupy_installed_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two distributions that own the module cupy; one that only begins alike is no third."""
    for name in ("cupy-cuda12x", "CuPy_cuda13x", "cupy-xarray"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = error_line(CupyBackend)
    assert line.startswith("several CuPy distributions are installed")
    assert "cupy-cuda12x, cupy-cuda13x" in line
    assert "xarray" not in line


@pytest.mark.parametrize("driver", [0, INSUFFICIENT_DRIVER])
def test_cupy_without_driver(monkeypatch: pytest.MonkeyPatch, driver: int | str) -> None:
    fake_cupy(monkeypatch, driver, INSUFFICIENT_DRIVER)
    assert error_line(CupyBackend) == "there is no NVIDIA driver: install one, or use --backend numpy"


def test_cupy_with_a_driver_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch, 12040, INSUFFICIENT_DRIVER)
    line = error_line(CupyBackend)
    assert line.startswith("the NVIDIA driver supports CUDA 12.4 and is too old for this CuPy, made for CUDA 13.0")


@pytest.mark.parametrize("devices", [0, NO_DEVICE])
def test_cupy_without_gpu(monkeypatch: pytest.MonkeyPatch, devices: int | str) -> None:
    fake_cupy(monkeypatch, 13000, devices)
    assert error_line(CupyBackend).startswith("there is an NVIDIA driver but no ")


@pytest.mark.parametrize("device", ["cuda:2", "2"])
def test_cupy_gpu_out_of_range(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    fake_cupy(monkeypatch, 13000, 2)
    line = error_line(CupyBackend, device)
    assert line == "GPU 2 does not exist: the number of GPUs is 2, the first is cuda:0"


@pytest.mark.parametrize("device", ["cpu", "cuda:", "gpu", "cuda:-1"])
def test_cupy_device_unknown(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    fake_cupy(monkeypatch, 13000, 1)
    assert error_line(CupyBackend, device).startswith(f"the cupy backend does not know device {device!r}")


@pytest.mark.gpu
def test_cupy_on_a_gpu() -> None:
    try:
        backend = load_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error))
    assert backend.describe().startswith("cupy ")
    with backend.scope():
        total = backend.asarray(np.arange(3.0)) * 2
        backend.synchronize()
    np.testing.assert_array_equal(backend.to_numpy(total), [0.0, 2.0, 4.0])
    with pytest.raises(BackendError, match=r"^GPU 1000 does not exist"):
        load_backend("cupy", "cuda:1000")


@pytest.mark.slow
def test_numpy_keeps_freed_memory() -> None:
    """Where glibc allocates, arrays made again and again fault in few pages: a few rounds' worth.

    In a process of its own, since the setting is the process's. As glibc comes, these 50 rounds fault in 100,000 pages.
    """
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another allocator than glibc's is left as it is")
    program = """
import resource, numpy as np
from tinyddpm.backend import load_backend
load_backend("numpy")
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    [np.ones(2**20, np.float32) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3 * 4096


def test_another_allocator_than_glibcs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("its library was asked"))
    assert not keep_freed_memory()


def test_a_system_that_does_not_tell_the_peak_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows, where Python has no module `resource`."""
    assert NumpyBackend().peak_memory() > 0
    monkeypatch.setitem(sys.modules, "resource", None)
    assert NumpyBackend().peak_memory() == 0


@pytest.mark.parametrize("size", [0, 1, 2**16 - 1, 2**16, 5 * 2**16 + 3])
def test_blocks_cover_a_buffer_once(size: int) -> None:
    for backend in (NumpyBackend(), TorchBackend()):
        blocks = [np.arange(size)[block] for block in backend.blocks(size)]
        np.testing.assert_array_equal(np.concatenate([np.arange(0), *blocks]), np.arange(size))


def test_threads_share_a_batch_where_that_helps() -> None:
    assert NumpyBackend().threads(3) == 3
    assert NumpyBackend().threads(0) >= 1
    assert TorchBackend().threads(3) == 1


@given(
    x=arrays(np.float32, 7, elements=st.floats(width=32)), low=st.floats(-9, 9), width=st.floats(0, 9) | st.just(np.inf)
)
def test_clipped_is_the_standards_clip(x: np.ndarray, low: float, width: float) -> None:
    """Bit for bit, NaN and infinity too."""
    found = clipped(array_api_compat.numpy, x, low, low + width)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, array_api_compat.numpy.clip(x, low, low + width))
