"""Convolutions and the products of attention by NVIDIA's cuDNN, if it is installed.

When a shape first occurs on a stream that is not being captured, cuDNN's first plans for it are run on random numbers.
Plans whose results differ from those of this package's kernels are dropped, because some plans have given wrong
results. The fastest of the remaining plans and this package's kernels is used from then on, and its name is stored in a
file for later processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cached_property, partial
from math import isfinite, prod
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, proxy

import numpy as np

from tinyddpm.backend import Array, Backend, Purpose
from tinyddpm.backend.cupy_backend import graph_memory, record
from tinyddpm.ops.base import cut
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.choices import add_choice, read_choices
from tinyddpm.ops.cuda.cudnn_frontend import (
    Convolution,
    Plans,
    Problem,
    Product,
    Shape,
    explained,
    load_cudnn,
    tolerance,
)
from tinyddpm.ops.cuda.launching import Places
from tinyddpm.ops.cuda.products import CudaProducts

CANDIDATES = 24
"""Number of correct plans to time, of which the fastest is used."""

REPEATS = 10
"""Number of consecutive runs by which a plan is timed."""

OWN = "this package's kernels"
"""Name of the choice not to use any plan."""

MOST_CHANNELS = 1 << 15
"""Largest number of output channels for which cuDNN computes dw: the kernel that follows it has a counter per strip."""

LEAST_PRODUCT = 1 << 28
"""Least number of multiply-adds of products for which plans are tried. Compiling a plan takes a second, more than plans
for smaller products could ever save."""

ALIGNMENT = 16
"""Alignment of arrays, in bytes, that cuDNN relies on."""


def _nothing(*arrays: Array) -> None:
    """Do nothing: `finish` for plans whose output is the final result."""


class CudnnConvolutions(CudaProducts):
    """Convolutions, and products of attention with one head, by cuDNN's plans.

    This package's kernels compute them if cuDNN is missing or has no plan that is both correct and faster.
    """

    def __init__(self, backend: Backend, training: bool = False) -> None:
        super().__init__(backend, training)
        self._planner = None if backend.device is None else planner(backend)
        self._biases: dict[int, tuple[Array, Array]] = {}
        self._no_biases: dict[tuple[int, str], Array] = {}

    def _packed(self, buffer: Array, shapes: tuple[Shape, ...]) -> Array:
        packed = super()._packed(buffer, shapes)
        if self._planner is not None and packed.dtype != buffer.dtype:
            # cuDNN needs biases in the dtype of images. This maps the address of each float32 bias to both versions;
            # keeping the float32 array keeps its address valid.
            pairs = zip(cut(self.xp, buffer, shapes), cut(self.xp, packed, shapes), strict=True)
            self._biases = {self._planner.address(pair[0]): pair for pair in pairs if pair[0].ndim == 1}
        return packed

    def _convolve(self, x: Array, kernel: Array, b: Array, stride: int, residual: Array | None = None) -> Array:
        run = self._plan("y" if residual is None else "y + residual", x, x.shape, kernel.shape, stride)
        if run is None:
            return super()._convolve(x, kernel, b, stride, residual)
        added = () if residual is None else (residual,)
        return run(x, kernel, self._stored_bias(b, x.dtype), *added)

    def _stored_bias(self, b: Array, dtype: Any) -> Array:
        assert self._planner is not None  # because there is a plan
        if b.dtype != dtype and (kept := self._biases.get(self._planner.address(b))):
            return kept[1]
        return self.xp.astype(b, dtype, copy=False)

    def _convolve_dx(self, dy: Array, kernel: Array, x_shape: Shape, stride: int, added: Array | None = None) -> Array:
        if added is not None and (stride, *kernel.shape[1:3]) == (1, 1, 1):
            return self._linear_dx(dy, kernel, x_shape, added)
        run = self._plan("dx", dy, x_shape, kernel.shape, stride)
        if run is None:
            return super()._convolve_dx(dy, kernel, x_shape, stride, added)
        dx = run(dy, kernel)
        return dx if added is None else self._sum_of_two(dx, added)

    def _linear_dx(self, dy: Array, kernel: Array, x_shape: Shape, added: Array) -> Array:
        """Return dx of a linear map, plus `added`.

        cuDNN has no plan that adds to dx, but one that adds to y: dx is the y of dy and the transposed weights. To
        transpose them pays for large products alone.
        """
        if self._planner is not None and prod(x_shape) * kernel.shape[0] >= LEAST_PRODUCT:
            run = self._plan("y + residual", dy, dy.shape, (x_shape[3], 1, 1, dy.shape[3]), 1)
            if run is not None:
                turned = self.xp.ascontiguousarray(self.xp.permute_dims(kernel, (3, 1, 2, 0)))
                return run(dy, turned, self._no_bias(turned), added)
        return super()._convolve_dx(dy, kernel, x_shape, 1, added)

    def _no_bias(self, kernel: Array) -> Array:
        """Return zeros for the channels of a kernel's output, kept for recorded steps."""
        key = kernel.shape[0], str(kernel.dtype)
        if key not in self._no_biases:
            self._no_biases[key] = self.xp.zeros((kernel.shape[0],), dtype=kernel.dtype, device=self.backend.device)
        return self._no_biases[key]

    def _convolve_dw(
        self, x: Array, dy: Array, kernel_shape: Shape, stride: int, into: Places = None
    ) -> tuple[Array, Array]:
        run = None
        if kernel_shape[0] <= MOST_CHANNELS:
            run = self._plan("dw", x, x.shape, kernel_shape, stride, lambda dw, x, dy: self._turned_gradients(dw, dy))
        if run is None:
            return super()._convolve_dw(x, dy, kernel_shape, stride, into)
        return self._turned_gradients(run(x, dy), dy, into)

    def _turned_gradients(self, turned: Array, dy: Array, into: Places = None) -> tuple[Array, Array]:
        """Return dw, transposed from cuDNN's (C_out, kh, kw, C_in) to (kh, kw, C_in, C_out), and db, by one kernel."""
        c_out, kh, kw, c_in = turned.shape
        rows = dy.size // c_out
        dw, db = into or self._parameter_gradients((kh, kw, c_in, c_out))
        lanes = geometry.lanes(dy.dtype.itemsize, c_out)
        where, sums, chunks, each = geometry.turned_gradients(kh * kw, c_in, c_out, rows, lanes)
        partial = self._empty((chunks, c_out), self.xp.float32)
        self._launch(
            "sums", "turned_gradients", where, turned, dy, dw, partial, db, self._arrived, kh * kw, c_in, c_out, rows,
            each, sums, lanes,
        )  # fmt: skip
        return dw, db

    @cached_property
    def _arrived(self) -> Array:
        """Counters of finished blocks for the kernel of `_turned_gradients`, which leaves them at 0."""
        return self.backend.asarray(np.zeros(MOST_CHANNELS // geometry.SUM_STRIPS, np.uint32))

    def _plan(
        self, wanted: str, first: Array, x: Shape, kernel: Shape, stride: int, finish: Callable[..., object] = _nothing
    ) -> Callable[..., Array] | None:
        if self._planner is None:
            return None
        problem = Convolution(wanted, tuple(x), (*kernel[1:], kernel[0]), stride, self._precision(first))
        return self._planner.find(problem, partial(self._expected, problem), finish)

    def _multiply(self, wanted: str, a: Array, b: Array, shape: Shape, heads: int) -> Array:
        (m, n), k = shape[-2:], a.shape[-2 if wanted == "atb" else -1]
        own = super()._multiply
        # cuDNN has no plan for several heads: it needs all matrices at equal distances.
        if self._planner is None or heads > 1 or shape[0] * m * n * k < LEAST_PRODUCT:
            return own(wanted, a, b, shape, heads)
        problem = Product(wanted, shape[0], m, n, k, self._precision(a))
        run = self._planner.find(problem, lambda a, b: own(wanted, a, b, problem.shapes()[-1], 1))
        return own(wanted, a, b, shape, heads) if run is None else self.xp.reshape(run(a, b), shape)

    def _precision(self, first: Array) -> str:
        """Return the precision of cuDNN's products of arrays like `first`: "fp32", "tf32" or "bf16"."""
        float32 = "tf32" if self.backend.precision == "tf32" else "fp32"
        return "bf16" if str(first.dtype) == "bfloat16" else float32

    def _expected(self, problem: Convolution, *inputs: Array) -> Array:
        """Return the result of this package's kernels for cuDNN's inputs, in the shape of cuDNN's output."""
        if problem.wanted in ("y", "y + residual"):
            x, kernel, b, *residual = inputs
            return super()._convolve(x, kernel, self._bias(self.xp.reshape(b, (-1,))), problem.stride, *residual)
        if problem.wanted == "dx":
            dy, kernel = inputs
            return super()._convolve_dx(dy, kernel, problem.x, problem.stride)
        x, dy = inputs
        dw, _ = super()._convolve_dw(x, dy, (problem.w[3], *problem.w[:3]), problem.stride)
        return self.xp.permute_dims(dw, (3, 0, 1, 2))


def _in_a_row(run: Callable[[], Array], finish: Callable[..., object], inputs: tuple[Array, ...]) -> None:
    finish(run(), *inputs)


class Choice(NamedTuple):
    """The plan chosen for a convolution or a product, and a record of the other plans.

    Attributes:
        name: name of the plan, or `OWN`.
        refused: number of refused plans by reason; None if the choice was read from an earlier process.
        untried: number of plans not tried, because CANDIDATES correct ones were found before them.
        furthest: largest distance of a plan that disagreed, in multiples of the tolerance; 0 if none did.
    """

    name: str
    refused: dict[str, int] | None = None
    untried: int = 0
    furthest: float = 0.0

    def __str__(self) -> str:
        """Return the choice and the record as one line."""
        if self.refused is None:
            return f"{self.name}; chosen earlier"
        counts = [f"{count} {reason}" for reason, count in self.refused.items()]
        if self.furthest:
            counts.append(f"furthest off by {self.furthest:.3g} times the tolerance")
        if self.untried:
            counts.append(f"{self.untried} not tried")
        return f"{self.name}; cuDNN's others: {', '.join(counts) or 'none'}"


class Planner:
    """The plans on one GPU, each chosen when its problem first occurs.

    Attributes:
        choices: the choice made for each problem.
    """

    def __init__(self, cudnn: Any, card: CupyCard, backend: Backend) -> None:
        self._cudnn, self._card, self._backend = cudnn, card, backend
        self._found: dict[Problem, Callable[..., Array] | None] = {}
        self.choices: dict[Problem, Choice] = {}

    def address(self, array: Array) -> int:
        """Return the address of an array's data."""
        return self._card.address(array)

    def find(
        self, problem: Problem, expected: Callable[..., Array], finish: Callable[..., object] = _nothing
    ) -> Callable[..., Array] | None:
        """Return a function that runs the chosen plan of a problem, from cuDNN's inputs to its output.

        Args:
            problem: convolution or product to compute.
            expected: function of the inputs that returns the correct output, by this package's kernels.
            finish: function of the output and the inputs that completes the work of a plan, such as a transposition;
                it is timed with the plan. `expected` does not need it.

        Returns:
            The function, or None if no plan is correct and faster, or if the stream is being captured and no choice
            has been made yet.
        """
        if problem not in self._found:
            if self._card.capturing():
                return None
            self._found[problem], self.choices[problem] = self._choose(problem, expected, finish)
        return self._found[problem]

    @cached_property
    def _handle(self) -> Any:
        """cuDNN's handle for the current GPU, an opaque object of the frontend."""
        with explained():
            return self._cudnn.create_handle()

    def _choose(
        self, problem: Problem, expected: Callable[..., Array], finish: Callable[..., object]
    ) -> tuple[Callable[..., Array] | None, Choice]:
        """Return the function of `find` and the choice: the one stored by an earlier process, or that of `_compare`."""
        key = f"{self._card.name}, cuDNN {self._cudnn.backend_version_string()}, {tuple(problem)}"
        plans = Plans(self._cudnn, problem, handle=self._handle)
        if not plans.names:
            return None, Choice(OWN, {})
        if known := _remembered(key, plans):
            choice = Choice(known)
        else:
            choice = self._compare(problem, plans, expected, finish)
            add_choice(key, choice.name)
            # Another process may have stored another choice first. Both must use that one, for runs to be repeatable.
            known = _remembered(key, plans)
            choice = Choice(known) if known and known != choice.name else choice
        if choice.name == OWN:
            return None, choice
        return partial(self._run, problem, plans, plans.names.index(choice.name)), choice

    def _compare(
        self, problem: Problem, plans: Plans, expected: Callable[..., Array], finish: Callable[..., object]
    ) -> Choice:
        """Try plans until CANDIDATES are correct. Return the fastest, or `OWN` if this package's kernels are faster."""
        inputs = self._draw(problem)
        right = expected(*inputs)
        times: dict[int, float] = {}
        refused: Counter[str] = Counter()
        furthest, tried = 0.0, 0
        for index in range(len(plans.names)):
            if len(times) == CANDIDATES:
                break
            tried += 1
            if not plans.build(index):
                refused["could not be built"] += 1
                continue
            run = partial(self._run, problem, plans, index, *inputs)
            try:
                output = run()
                distance = self._distance(problem, output, right)
                if distance <= 1:
                    finish(output, *inputs)  # compiles its kernel, which cannot happen in a capture
                    times[index] = self._card.milliseconds(partial(_in_a_row, run, finish, inputs))
            except RuntimeError:
                refused["failed when run"] += 1
                continue
            if not isfinite(distance):
                refused["gave infinity or NaN"] += 1
            elif distance > 1:
                refused["disagreed"] += 1
                furthest = max(furthest, distance)
        best = min(times, key=lambda index: times[index], default=None)
        if best is not None and self._card.milliseconds(partial(expected, *inputs)) < times[best]:
            best = None
        if slower := len(times) - (best is not None):
            refused["slower"] = slower
        name = OWN if best is None else plans.names[best]
        return Choice(name, dict(refused), len(plans.names) - tried, furthest)

    def _run(self, problem: Problem, plans: Plans, index: int, *inputs: Array) -> Array:
        """Return the output. CuPy allocates the scratch memory, so that a captured run keeps its own."""
        xp, device = self._backend.xp, self._backend.device
        output = xp.empty(problem.shapes()[-1], dtype=inputs[0].dtype, device=device)
        scratch = xp.empty((max(1, plans.scratch(index)),), dtype=xp.uint8, device=device)
        arrays = [*map(self._aligned, inputs), output]
        addresses = [self._card.address(array) for array in arrays]
        plans.launch(index, addresses, self._card.address(scratch), self._card.stream())
        return output

    def _aligned(self, array: Array) -> Array:
        """Return the array, or a copy if it is not aligned, such as a view of one bias among all parameters."""
        return self._backend.xp.asarray(array, copy=True) if self._card.address(array) % ALIGNMENT else array

    def _draw(self, problem: Problem) -> tuple[Array, ...]:
        """Return inputs of normal numbers for a problem."""
        random, dtype = self._backend.random(0), np.dtype("bfloat16" if problem.precision == "bf16" else "float32")
        drawn = (
            random.normal(Purpose.DATA, 0, range(shape[0]), shape[1:], layer)
            for layer, shape in enumerate(problem.shapes()[:-1])
        )
        return tuple(self._backend.xp.astype(array, dtype) for array in drawn)

    def _distance(self, problem: Problem, found: Array, right: Array) -> float:
        """Return the largest error of an output, in multiples of `tolerance`."""
        xp = self._backend.xp
        absolute, relative = tolerance(problem)
        found, right = xp.astype(found, xp.float32), xp.astype(right, xp.float32)
        return float(xp.max(xp.abs(found - right) / (absolute + relative * xp.abs(right))))


class CupyCard:
    """One GPU: its name, streams, addresses and timing, through CuPy."""

    def __init__(self, index: int) -> None:
        import cupy

        self._cuda = cupy.cuda
        self.name: str = self._cuda.runtime.getDeviceProperties(index)["name"].decode()

    def stream(self) -> int:
        """Return the address of the current stream."""
        return int(self._cuda.get_current_stream().ptr)

    def capturing(self) -> bool:
        """Whether the current stream is being captured."""
        return bool(self._cuda.get_current_stream().is_capturing())

    def address(self, array: Array) -> int:
        """Return the address of an array's data."""
        return int(array.data.ptr)

    @cached_property
    def _stream(self) -> Any:
        """Stream to capture timed runs on: the current one may be the default stream, which cannot be captured."""
        return self._cuda.Stream()

    def milliseconds(self, run: Callable[[], object]) -> float:
        """Return the time that `run` takes on the GPU. It must have run before, so that its kernels are compiled.

        REPEATS runs are captured as a graph, whose second replay is timed. Launched one by one from Python, short
        kernels would finish sooner than the next launch.

        Raises:
            RuntimeError: `run` cannot be captured or replayed.
        """

        def runs() -> None:
            for _ in range(REPEATS):
                run()

        self._cuda.get_current_stream().synchronize()  # the inputs of `run` are complete
        memory = graph_memory()  # nothing else may use the graph's memory until the replays are over
        start, end = self._cuda.Event(), self._cuda.Event()
        with self._stream, self._cuda.using_allocator(memory.malloc):
            _, graph = record(self._stream, runs)
        graph.launch(self._stream)
        start.record(self._stream)
        graph.launch(self._stream)
        end.record(self._stream)
        end.synchronize()
        return float(self._cuda.get_elapsed_time(start, end)) / REPEATS


PLANNERS: WeakKeyDictionary[Backend, Planner | None] = WeakKeyDictionary()
"""The planner of each backend that is in use, see `planner`; a backend that is not goes, with its memory on the GPU."""


def planner(backend: Backend) -> Planner | None:
    """Return the planner of a backend's GPU; None without cuDNN. Raises BackendError if cuDNN cannot work."""
    if backend not in PLANNERS:
        cudnn = load_cudnn()
        PLANNERS[backend] = None if cudnn is None else Planner(cudnn, CupyCard(backend.device.id), proxy(backend))
    return PLANNERS[backend]


def _remembered(key: str, plans: Plans) -> str | None:
    """Return the oldest name stored for a key that is `OWN` or a plan that can be built; None if there is none."""
    for name in read_choices(key):
        if name == OWN or (name in plans.names and plans.build(plans.names.index(name))):
            return name
    return None
