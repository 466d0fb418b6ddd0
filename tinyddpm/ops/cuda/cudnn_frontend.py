"""What is asked of NVIDIA's Python frontend of cuDNN: the one module that knows it.

A convolution or a product of matrices is described as a graph, for which cuDNN has a list of plans, best guess first.
A plan is built, then run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from typing import Any, NamedTuple, TypeAlias

from tinyddpm.errors import BackendError
from tinyddpm.ops.convolution import same_padding

INSTALL = "run pip install 'tinyddpm[cudnn12]' or 'tinyddpm[cudnn13]', by the CUDA version that nvidia-smi shows"

FAULTS = {
    "Unable to find symbol": f"the cuDNN frontend finds no cuDNN library: {INSTALL}",
    "Multiple libcudart": "the cuDNN frontend finds libcudart.so of both CUDA 12 and CUDA 13, and takes only one: "
    "uninstall the other, or take it off LD_LIBRARY_PATH",
    "Unable to load any libcudart": f"the cuDNN frontend finds no libcudart.so: {INSTALL}",
}
"""What the frontend says where it cannot work, and what to say instead."""

WORKSPACE = 1 << 28
"""Bytes of scratch memory that a plan may need."""

Shape = tuple[int, ...]

Layout: TypeAlias = dict[str, list[int]]
"""The dimensions of an array in cuDNN's order, and their strides."""


class Convolution(NamedTuple):
    """A convolution to plan.

    Attributes:
        wanted: "y", "y + residual", "dx" or "dw".
        x: the shape of x.
        w: the shape of w.
        stride: between output pixels.
        precision: "fp32", "tf32" or "bf16".
    """

    wanted: str
    x: Shape
    w: Shape
    stride: int
    precision: str

    def shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of the inputs, then of the output: weights as (C_out, kh, kw, C_in), like images."""
        (n, height, width, _), (kh, kw, c_in, c_out) = self.x, self.w
        w, b = (c_out, kh, kw, c_in), (1, 1, 1, c_out)
        y = (n, -(-height // self.stride), -(-width // self.stride), c_out)
        inputs_and_output = {
            "y": (self.x, w, b, y),
            "y + residual": (self.x, w, b, y, y),
            "dx": (y, w, self.x),
            "dw": (self.x, y, w),
        }
        return inputs_and_output[self.wanted]

    def layouts(self) -> tuple[Layout, ...]:
        """Return the layouts of the same: N, C, H, W, where the array is a contiguous (N, H, W, C)."""
        return tuple({"dim": [n, c, h, w], "stride": [h * w * c, 1, w * c, c]} for n, h, w, c in self.shapes())

    def terms(self) -> int:
        """Return how many numbers are summed for each of the output."""
        kh, kw, c_in, c_out = self.w
        pixels, fan_in = prod(self.shapes()[1][:3]), kh * kw * c_in
        return {"y": fan_in + 1, "y + residual": fan_in + 2, "dx": kh * kw * c_out, "dw": pixels}[self.wanted]

    def describe(self, graph: Any, inputs: Sequence[Any]) -> Any:
        """Add the operation to a graph; return its output."""
        top_bottom, left_right = (same_padding(self.x[i], self.w[i - 1], self.stride) for i in (1, 2))
        window = {
            "pre_padding": [top_bottom[0], left_right[0]],
            "post_padding": [top_bottom[1], left_right[1]],
            "stride": [self.stride, self.stride],
            "dilation": [1, 1],
        }
        if self.wanted in ("y", "y + residual"):
            x, w, b, *residual = inputs
            y = graph.conv_fprop(image=x, weight=w, **window)
            if residual:  # before the bias: for the other order cuDNN has no plan
                y = graph.add(a=y, b=residual[0])
            return graph.bias(input=y, bias=b)
        if self.wanted == "dx":
            dy, w = inputs
            return graph.conv_dgrad(loss=dy, filter=w, **window)
        x, dy = inputs
        return graph.conv_wgrad(image=x, loss=dy, **window)


class Product(NamedTuple):
    """Products of matrices to plan, c = Σ over k, one for each sample.

    Attributes:
        wanted: "ab"; "abt", a bᵀ; or "atb", aᵀ b.
        samples: how many.
        m: the rows of c.
        n: its columns.
        k: how many products each of its elements is the sum of.
        precision: as of a convolution.
    """

    wanted: str
    samples: int
    m: int
    n: int
    k: int
    precision: str

    def shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of a, b and c."""
        a = (self.k, self.m) if self.wanted == "atb" else (self.m, self.k)
        b = (self.n, self.k) if self.wanted == "abt" else (self.k, self.n)
        return (self.samples, *a), (self.samples, *b), (self.samples, self.m, self.n)

    def layouts(self) -> tuple[Layout, ...]:
        """Return the layouts of a and b as they are multiplied, and of c: turning a matrix is a matter of strides."""
        a, b, c = ({"dim": [*shape], "stride": [shape[1] * shape[2], shape[2], 1]} for shape in self.shapes())
        return _turned(a) if self.wanted == "atb" else a, _turned(b) if self.wanted == "abt" else b, c

    def terms(self) -> int:
        """Return how many numbers are summed for each of the output."""
        return self.k

    def describe(self, graph: Any, inputs: Sequence[Any]) -> Any:
        """Add the operation to a graph; return its output."""
        a, b = inputs
        return graph.matmul(A=a, B=b)


Problem: TypeAlias = Convolution | Product
"""What plans are made for."""


class Plans:
    """The plans of a problem. Inputs and output are all float32 or all bfloat16: for others cuDNN has no plan.

    Left out are plans whose sums depend on the order of threads, for a seed must give the same run again; those that
    sum in less than float32; and in "fp32" those on tensor cores, which would round factors to TF32.

    Args:
        cudnn: the frontend.
        problem: what to plan.
        place: `handle`; or `device_property`, to plan without a GPU.

    Attributes:
        names: of the plans, best guess first; the same in each process.
    """

    def __init__(self, cudnn: Any, problem: Problem, **place: Any) -> None:
        self._cudnn, self._place = cudnn, place
        float32, notes = cudnn.data_type.FLOAT, cudnn.numerical_note
        io = cudnn.data_type.BFLOAT16 if problem.precision == "bf16" else float32
        graph = cudnn.pygraph(io_data_type=io, intermediate_data_type=float32, compute_data_type=float32, **place)
        *layouts, layout = problem.layouts()
        inputs = [graph.tensor(**each) for each in layouts]
        output = problem.describe(graph, inputs)
        output.set_output(True).set_data_type(io).set_dim(layout["dim"]).set_stride(layout["stride"])
        self._graph, self._tensors = graph, (*inputs, output)
        self.names: list[str] = []
        self._built: dict[int, bool] = {}
        with suppress(cudnn.cudnnGraphNotSupportedError), explained():
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
            exact = [notes.TENSOR_CORE] if problem.precision == "fp32" else []
            graph.deselect_numeric_notes([notes.NONDETERMINISTIC, notes.REDUCED_PRECISION_REDUCTION, *exact])
            graph.deselect_workspace_greater_than(WORKSPACE)
            self.names = [graph.get_plan_name_at_index(i) for i in range(graph.get_execution_plan_count())]

    def build(self, index: int) -> bool:
        """Build a plan if it is not; return whether that is possible, and it is not left out."""
        if index not in self._built:
            try:
                self._graph.build_plan_at_index(index)
                self._built[index] = True
            except (RuntimeError, self._cudnn.cudnnGraphNotSupportedError):
                self._built[index] = False
        return self._built[index]

    def scratch(self, index: int) -> int:
        """Return the bytes of scratch memory that a built plan needs."""
        return int(self._graph.get_workspace_size_plan_at_index(index))

    def launch(self, index: int, addresses: Sequence[int], scratch: int, stream: int) -> None:
        """Run a built plan on arrays, contiguous and of the problem's `shapes`, and scratch memory at these addresses.

        Raises:
            RuntimeError: the plan cannot be run.
            BackendError: no plan can be.
        """
        arrays = dict(zip(self._tensors, addresses, strict=True))
        with explained():
            self._cudnn.set_stream(stream=stream, **self._place)
            self._graph.execute_plan_at_index(arrays, scratch, index, **self._place)


def load_cudnn() -> Any | None:
    """Return the frontend, or None where it is not installed.

    Raises:
        BackendError: it is installed but cannot be loaded, or finds no cuDNN.
    """
    # The frontend looks for libcudart by name, which finds what is loaded: CuPy loads none, and wheels are in no path.
    with suppress(ModuleNotFoundError, RuntimeError):
        from cuda.pathfinder import load_nvidia_dynamic_lib

        load_nvidia_dynamic_lib("cudart")
    try:
        import cudnn
    except ModuleNotFoundError:
        return None
    except (ImportError, OSError, AssertionError) as cause:
        raise BackendError(
            f"the cuDNN frontend cannot be loaded ({' '.join(str(cause).split())}): {INSTALL}"
        ) from cause
    with explained():
        cudnn.backend_version()
    return cudnn


def cudnn_line() -> str:
    """Return what convolutions are done by, to describe a backend; raises what `load_cudnn` raises."""
    cudnn = load_cudnn()
    return f"cuDNN {cudnn.backend_version_string()}" if cudnn else "no cuDNN (own convolution kernels)"


@contextmanager
def explained() -> Iterator[None]:
    """Turn what the frontend says where it cannot work into a BackendError."""
    try:
        yield
    except RuntimeError as cause:
        for said, line in FAULTS.items():
            if said in str(cause):
                raise BackendError(line) from cause
        raise


def _turned(layout: Layout) -> Layout:
    """Return the layout of the matrices turned: rows for columns."""
    return {name: [samples, columns, rows] for name, (samples, rows, columns) in layout.items()}
