"""CuPy on an NVIDIA GPU."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from importlib.metadata import EntryPoint
from traceback import walk_tb
from typing import Any, ClassVar, TypeVar

import numpy as np

from tinyddpm.backend.array import Array
from tinyddpm.backend.base import Backend
from tinyddpm.backend.captured import Arrays, Captured, Function
from tinyddpm.backend.random import Random
from tinyddpm.errors import BackendError

INSTALL = "pip install 'tinyddpm[cuda12]' or 'tinyddpm[cuda13]', by the CUDA version that nvidia-smi shows"

OLDEST = (8, 0)
"""Least compute capability: that of Ampere, the first with bfloat16 and TF32."""

ARRAY_LAYER = ("cupy", "cupy_backends", "cupyx", "array_api_compat", "tinyddpm.backend")
"""Packages that operations call: an error in them is reported under the operation's name."""

T = TypeVar("T")


class CupyBackend(Backend):
    """CuPy arrays on one NVIDIA GPU. Compute within `scope()`.

    Args:
        device: "cuda" (the default, GPU 0), "cuda:N" or "N".
        precision: "fp32"; "tf32", where factors of products are rounded to 10 bits after the point and summed in
            float32; or "bf16", where a network's activations and matrices are bfloat16 as well. Trained weights,
            moments, statistics and sums are float32 in all three.
        graph: whether training steps and networks in samplers are recorded as CUDA graphs.

    Raises:
        BackendError: CuPy is not installed, installed twice or broken, the driver is missing or too old, or the device
            is unknown, missing or too old.

    Attributes:
        shared_memory: largest shared memory of a block of threads, in bytes.
    """

    name = "cupy"
    operations = "tinyddpm.ops.cupy_operations:CupyOperations"
    precisions = ("fp32", "tf32", "bf16")
    graphs = True
    requires: ClassVar[Mapping[str, str]] = {"cupy": "tinyddpm[cuda12]"}
    randomness = "tinyddpm.ops.cuda.random:CupyRandom"
    """`module:attribute` of the class of random numbers; imported at its first use."""
    convolutions = "tinyddpm.ops.cuda.cudnn_frontend:cudnn_line"
    """`module:attribute` of the function that names the library of convolutions."""

    def __init__(self, device: str | None = None, *, precision: str = "fp32", graph: bool = True) -> None:
        self._cupy = _import_cupy()
        index = _device_index(device)
        _check_gpu(self._cupy, index)
        import array_api_compat.cupy as xp

        super().__init__(xp, self._cupy.cuda.Device(index), precision)
        self.shared_memory = int(self.device.attributes["MaxSharedMemoryPerBlockOptin"])
        self._modules: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._graph = graph
        self._most_held = 0
        self._uploading: list[np.ndarray[Any, Any]] = []
        # No one else may use a graph's memory. All graphs share this pool, since they are replayed one at a time.
        self._graph_memory = graph_memory()
        with self.device:
            self._stream = self._cupy.cuda.Stream()  # the default one cannot be recorded
            self._side = self._cupy.cuda.Stream()
        self._kept: tuple[Array, ...] | None = None  # what an open branch reads

    def compile(self, code: str, options: tuple[str, ...]) -> Any:
        """Return CuPy's RawModule of `code`, cached; it is compiled when a kernel is first taken from it."""
        key = (code, options)
        if key not in self._modules:
            self._modules[key] = self._cupy.RawModule(code=code, options=options)
        return self._modules[key]

    def random(self, seed: int) -> Random:
        """Return the stateless random numbers of `seed`; each draw is one launch."""
        result: Random = EntryPoint("random", self.randomness, "").load()(self, seed)
        return result

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """Return a host copy of `array`."""
        host: np.ndarray[Any, Any] = self._cupy.asnumpy(array)
        self._uploading.clear()
        return host

    def captured(self, function: Function) -> Function:
        """Return `function`, recorded at its second call as a CUDA graph that later calls replay."""
        return Captured(self._record, function) if self._graph else function

    def _record(self, function: Callable[[], Arrays]) -> tuple[Arrays, Callable[[], None]]:
        """Record the launches of `function`; return the arrays of its results and the replay. Nothing is computed yet.

        Raises:
            BackendError: a part of the function cannot be recorded.
        """

        def whole() -> Arrays:
            outputs = function()
            self.join()
            return outputs

        self._see_memory()
        self._cupy.get_default_memory_pool().free_all_blocks()
        self._kept = None
        try:
            with self._cupy.cuda.using_allocator(self._graph_memory.malloc):
                outputs, graph = record(self._stream, whole)
        except RuntimeError as cause:  # as are NotImplementedError and the errors of CUDA's runtime and driver
            reason = " ".join(str(cause).split())
            raise BackendError(
                f"{_operation(cause)} cannot be recorded as a CUDA graph ({reason}): use --no-graph"
            ) from cause
        return outputs, lambda: graph.launch(self._stream)

    @contextmanager
    def beside(self, *kept: Array) -> Iterator[None]:
        """Record what is launched inside as a branch of the graph, on a second stream; see `Backend.beside`.

        One branch is open at a time. The arrays that it reads are kept until it is joined: after that, the other
        branch may use their memory again.
        """
        if not self._stream.is_capturing():
            yield
            return
        self.join()
        follow(self._side, self._stream)
        with self._side:
            yield
        self._kept = kept

    def join(self) -> None:
        """Let what is recorded from here on wait for the branch of `beside`, if one is open."""
        if self._kept is not None:
            follow(self._stream, self._side)
            self._kept = None

    def host_buffer(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Return page-locked memory, which the GPU reads without the host."""
        import cupyx

        buffer: np.ndarray[Any, Any] = cupyx.empty_pinned(shape, dtype)
        return buffer

    def upload(self, array: Array, values: np.ndarray[Any, Any]) -> None:
        """Write host values into an array, in order with the launches; they are kept until the GPU has read them."""
        array.set(values)
        self._uploading.append(values)

    @contextmanager
    def _context(self) -> Iterator[None]:
        """Make this backend's GPU and stream the current ones, where CuPy allocates arrays and launches kernels."""
        with self._cupy.cuda.Device(self.device.id), self._stream:
            yield

    def synchronize(self) -> None:
        """Wait until the GPU has finished all work."""
        self.device.synchronize()
        self._uploading.clear()

    def peak_memory(self) -> int:
        """Return the peak of the GPU's memory held by CuPy's pool and the graphs' pool, in bytes."""
        with self._context():
            self._see_memory()
        return self._most_held

    def forget_peak(self) -> None:
        """Begin to measure `peak_memory` anew: without what was tried before the first recording."""
        self._cupy.get_default_memory_pool().free_all_blocks()
        self._most_held = 0

    def _see_memory(self) -> None:
        """Update the peak. The pools only grow, except where `free_all_blocks` is called, as before a recording."""
        pools = (self._cupy.get_default_memory_pool(), self._graph_memory)
        self._most_held = max(self._most_held, sum(int(pool.total_bytes()) for pool in pools))

    def free_memory(self) -> int:
        """Return the free memory of the GPU, in bytes."""
        with self._context():
            return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def describe(self) -> str:
        """Return the versions of CuPy, CUDA, the driver and cuDNN, the GPU's name, and the precision."""
        runtime = self._cupy.cuda.runtime
        gpu = runtime.getDeviceProperties(self.device.id)["name"].decode()
        cuda, driver = _version(runtime.runtimeGetVersion()), _version(runtime.driverGetVersion())
        convolutions = EntryPoint("convolutions", self.convolutions, "").load()()
        place = f"cuda:{self.device.id} ({gpu}), CUDA {cuda}, driver for CUDA {driver}"
        return f"cupy {self._cupy.__version__} on {place}, {convolutions}, {self.precision}"


def record(stream: Any, function: Callable[[], T]) -> tuple[T, Any]:
    """Return the function's result, and the CUDA graph of its launches on a stream; nothing is computed yet.

    The caller must keep the memory allocated in the function for the graph alone.

    Args:
        stream: CuPy's current stream, which must not be the default one.
        function: the function to record. Its exceptions are passed on, and the stream stays usable.

    Raises:
        RuntimeError: a part of the function cannot be recorded.
    """
    with _uncollected():
        stream.begin_capture()
        try:
            result = function()
        except BaseException:
            with suppress(RuntimeError):  # ending a broken recording raises an error that says less than the first
                stream.end_capture()
            raise
        return result, stream.end_capture()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from running inside: with a backend it would free memory of the GPU."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def graph_memory() -> Any:
    """Return a pool of GPU memory for recorded graphs.

    What is free in it belongs to launches recorded earlier. Where CUDA runs out of memory, CuPy's pools give back what
    is free in them and try again; this one raises MemoryError at once.
    """
    import cupy

    def allocated(size: int) -> Any:
        try:
            return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
        except cupy.cuda.runtime.CUDARuntimeError as cause:
            if "cudaErrorMemoryAllocation" in str(cause):
                raise MemoryError(str(cause)) from cause
            raise

    return cupy.cuda.MemoryPool(allocated)


def follow(later: Any, earlier: Any) -> None:
    """Make a stream wait for the work launched on another; a recording of the one then includes the other."""
    import cupy

    event = cupy.cuda.Event(disable_timing=True)
    event.record(earlier)
    later.wait_event(event)


def _operation(error: RuntimeError) -> str:
    """Return the innermost function of this package or a plugin in the traceback, as "what linear does (FILE:41)"."""
    frames = [
        (frame.f_code, line)
        for frame, line in walk_tb(error.__traceback__)
        if not f"{frame.f_globals.get('__name__', '')}.".startswith(tuple(f"{name}." for name in ARRAY_LAYER))
    ]
    if not frames:
        return "what this network does"
    code, line = frames[-1]
    return f"what {code.co_name} does ({code.co_filename}:{line})"


def _import_cupy() -> Any:
    """Return the module cupy, or raise BackendError if it is missing, installed twice, or cannot be imported."""
    names = {re.sub(r"[-_.]+", "-", str(found.metadata["Name"])).lower() for found in metadata.distributions()}
    copies = sorted(name for name in names if re.fullmatch(r"cupy(-(cuda|rocm).*)?", name))
    if len(copies) > 1:
        raise BackendError(
            f"several CuPy distributions are installed, of which only one may be: {', '.join(copies)}: "
            f"run pip uninstall {' '.join(copies)}, then {INSTALL}"
        )
    try:
        import cupy
    except ModuleNotFoundError as cause:
        raise BackendError(f"CuPy is not installed ({cause}): run {INSTALL}") from cause
    except ImportError as cause:
        reason = " ".join(str(cause).split())
        raise BackendError(f"CuPy is installed but cannot be imported ({reason}): run {INSTALL}") from cause
    return cupy


def _device_index(device: str | None) -> int:
    """Return the number of the GPU that `device` names."""
    match = re.fullmatch(r"(?:cuda)?|(?:cuda:)?(\d+)", device or "")
    if match is None:
        raise BackendError(f"the cupy backend does not know device {device!r}: use 'cuda' or 'cuda:N'")
    return int(match[1] or 0)


def _check_gpu(cupy: Any, index: int) -> None:
    """Raise BackendError unless there is a driver, recent enough for CuPy's CUDA, and a GPU number `index`."""
    runtime = cupy.cuda.runtime
    try:
        driver = runtime.driverGetVersion()
    except runtime.CUDARuntimeError:
        driver = 0
    if driver == 0:
        raise BackendError("there is no NVIDIA driver: install one, or use --backend numpy")
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as cause:
        if "cudaErrorInsufficientDriver" in str(cause):
            raise BackendError(
                f"the NVIDIA driver supports CUDA {_version(driver)} and is too old for this CuPy, made for CUDA "
                f"{_version(runtime.runtimeGetVersion())}: update the driver, or install the CuPy for its CUDA"
            ) from cause
        raise BackendError(f"there is an NVIDIA driver but no usable GPU ({cause}): see nvidia-smi") from cause
    if count == 0:
        raise BackendError("there is an NVIDIA driver but no GPU: see nvidia-smi, or use --backend numpy")
    if index >= count:
        raise BackendError(f"GPU {index} does not exist: the number of GPUs is {count}, the first is cuda:0")
    properties = runtime.getDeviceProperties(index)
    capability = (properties["major"], properties["minor"])
    if capability < OLDEST:
        raise BackendError(
            f"GPU {index} ({properties['name'].decode()}) is too old: its compute capability is "
            f"{capability[0]}.{capability[1]}, and {OLDEST[0]}.{OLDEST[1]} or later is needed; use --backend numpy"
        )


def _version(number: int) -> str:
    """Return CUDA's version `number`, 1000 * major + 10 * minor, as text."""
    return f"{number // 1000}.{number % 1000 // 10}"
