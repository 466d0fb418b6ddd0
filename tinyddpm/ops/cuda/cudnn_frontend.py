"""All calls of NVIDIA's Python frontend of cuDNN.

A convolution or a product of matrices is described as a graph. cuDNN lists plans that compute it, in the order of its
own estimate. A plan is built, then run.
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
"""Parts of the frontend's error messages, each with the message to raise instead."""

WORKSPACE = 1 << 28
"""Largest scratch memory of a plan, in bytes; plans that need more are left out."""

Shape = tuple[int, ...]

Layout: TypeAlias = dict[str, list[int]]
"""Dimensions of an array in cuDNN's order, "dim", and their strides, "stride"."""


class Convolution(NamedTuple):
    """A convolution to plan.

    Attributes:
        wanted: result to compute: "y", "y + residual", "dx" or "dw".
        x: shape of x, (N, H, W, C_in).
        w: shape of w, (kh, kw, C_in, C_out).
        stride: distance in x between neighbouring output pixels.
        precision: "fp32", "tf32" or "bf16".
    """

    wanted: str
    x: Shape
    w: Shape
    stride: int
    precision: str

    def shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of the inputs, then of the output, with weights as (C_out, kh, kw, C_in)."""
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
        """Return the layouts of the arrays of `shapes`: dimensions (N, C, H, W) of contiguous (N, H, W, C) arrays."""
        return tuple({"dim": [n, c, h, w], "stride": [h * w * c, 1, w * c, c]} for n, h, w, c in self.shapes())

    def terms(self) -> int:
        """Return the number of terms in the sum of each element of the output."""
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
    """Products of matrices to plan, c of shape (m, n) with inner dimension k, one for each sample.

    Attributes:
        wanted: "ab" for a b, "abt" for a bᵀ, "atb" for aᵀ b.
        samples: number of products.
        m: number of rows of c.
        n: number of columns of c.
        k: number of terms of each element of c.
        precision: "fp32", "tf32" or "bf16".
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
        """Return the layouts of a and b as factors, and of c: a transpose has exchanged dimensions and strides."""
        a, b, c = ({"dim": [*shape], "stride": [shape[1] * shape[2], shape[2], 1]} for shape in self.shapes())
        return _turned(a) if self.wanted == "atb" else a, _turned(b) if self.wanted == "abt" else b, c

    def terms(self) -> int:
        """Return the number of terms in the sum of each element of the output."""
        return self.k

    def describe(self, graph: Any, inputs: Sequence[Any]) -> Any:
        """Add the operation to a graph; return its output."""
        a, b = inputs
        return graph.matmul(A=a, B=b)


Problem: TypeAlias = Convolution | Product
"""A computation that cuDNN has plans for."""


def tolerance(problem: Problem) -> tuple[float, float]:
    """Return (absolute, relative) bounds on the difference of two sums of the same K products of normal numbers.

    Partial sums are about √K, so K additions in float32, each off by one unit in the last place in the same direction,
    add up to an error of K √K 2⁻²³ in each sum. TF32 rounds both factors by up to 2⁻¹¹, with a sign that varies from
    term to term: 2⁻¹⁰ √K exceeds the standard deviation of the resulting error, and 8 of these are allowed to each sum.

    bfloat16 has 8 significant bits, so its unit in the last place is between 2⁻⁸ and 2⁻⁷ of a value. Two sums that lie
    close together, but on either side of the middle between two bfloat16 numbers, are rounded to different ones, a unit
    apart. Where a sum cancels, float32's errors exceed that unit; the absolute bound, which depends on the products and
    not on their sum, covers them.
    """
    terms = problem.terms()
    rounded, relative = {"fp32": (0.0, 0.0), "tf32": (2.0**-6, 0.0), "bf16": (0.0, 2.0**-7)}[problem.precision]
    return 2.0**-22 * terms**1.5 + rounded * terms**0.5, relative


class Plans:
    """cuDNN's plans for a problem. Inputs and output are all float32 or all bfloat16: for others cuDNN has no plan.

    Three kinds of plans are left out: those whose sums depend on the order of threads, for runs must be repeatable;
    those that sum in less than float32; and in "fp32" those on tensor cores, which would round factors to TF32.

    Args:
        cudnn: module of the frontend.
        problem: convolution or product to plan.
        place: `handle`, or `device_property` to plan without a GPU.

    Attributes:
        names: names of the plans in the order of cuDNN's estimate; the same in each process.
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
        """Build a plan unless it is built; return whether that succeeded. It fails for plans that are left out."""
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
        """Run a built plan, given the addresses of contiguous arrays of the problem's `shapes`, scratch and stream.

        Raises:
            RuntimeError: this plan cannot be run.
            BackendError: cuDNN cannot run any plan.
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
    # The frontend opens libcudart by name, which finds loaded libraries. CuPy loads none, and wheels are in no path.
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
    """Return a description of what computes convolutions: cuDNN's version, or own kernels. Raises as `load_cudnn`."""
    cudnn = load_cudnn()
    return f"cuDNN {cudnn.backend_version_string()}" if cudnn else "no cuDNN (own convolution kernels)"


@contextmanager
def explained() -> Iterator[None]:
    """Convert the frontend's errors that are listed in FAULTS to BackendErrors."""
    try:
        yield
    except RuntimeError as cause:
        for said, line in FAULTS.items():
            if said in str(cause):
                raise BackendError(line) from cause
        raise


def _turned(layout: Layout) -> Layout:
    """Return the layout of the transposed matrices."""
    return {name: [samples, columns, rows] for name, (samples, rows, columns) in layout.items()}
