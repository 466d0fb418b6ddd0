"""A stand-in for the frontend of cuDNN: a plan computes its graph with Torch, or has a fault.

The number in a plan's name is its duration in milliseconds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers.cuda_tape import TAPE
from helpers.cupy_stand_in import CARD


class UnsupportedError(Exception):
    """A stand-in for the frontend's cudnnGraphNotSupportedError."""


class Tensor:
    """A tensor of a graph."""

    def __init__(self, dim: list[int], stride: list[int], made: tuple[Any, ...] = ()) -> None:
        self.dim, self.stride, self.made = dim, stride, made

    def set_output(self, is_output: bool) -> Tensor:
        assert is_output
        return self

    def set_data_type(self, data_type: str) -> Tensor:
        return self

    def set_dim(self, dim: list[int]) -> Tensor:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> Tensor:
        self.stride = stride
        return self

    def at(self, address: int, dtype: str) -> np.ndarray:
        """Return the values at an address, as an array with the order of `dim`."""
        size = int(np.prod(self.dim)) * np.dtype(dtype).itemsize
        flat = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype)
        strides = [flat.itemsize * stride for stride in self.stride]
        return np.lib.stride_tricks.as_strided(flat, self.dim, strides, writeable=True)


class Graph:
    """A graph with the frontend's plans: those named `right…` compute it, the others have a fault each."""

    def __init__(self, frontend: Frontend, io_data_type: str, **others: Any) -> None:
        self._frontend, self._dtype, self._built = frontend, io_data_type, set[int]()
        self.validate = self.build_operation_graph = lambda: None
        self.create_execution_plans = self.deselect_numeric_notes = lambda chosen: None
        self.deselect_workspace_greater_than = lambda size: None

    def tensor(self, dim: list[int], stride: list[int]) -> Tensor:
        return Tensor(dim, stride)

    def conv_fprop(self, image: Tensor, weight: Tensor, **window: list[int]) -> Tensor:
        return Tensor([], [], (forward, window, image, weight))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        function, window, *tensors = a.made
        assert len(tensors) == 2, "cuDNN has plans for a sum before the bias alone"
        return Tensor([], [], (function, window, *tensors, b))

    def bias(self, input: Tensor, bias: Tensor) -> Tensor:  # noqa: A002
        function, window, *tensors = input.made
        return Tensor([], [], (function, window, *tensors, bias))

    def conv_dgrad(self, loss: Tensor, filter: Tensor, **window: list[int]) -> Tensor:  # noqa: A002
        return Tensor([], [], (backward_x, window, loss, filter))

    def conv_wgrad(self, image: Tensor, loss: Tensor, **window: list[int]) -> Tensor:
        return Tensor([], [], (backward_w, window, image, loss))

    def matmul(self, A: Tensor, B: Tensor) -> Tensor:
        assert len(A.dim) == 3, "cuDNN has plans for one axis of samples alone"
        return Tensor([], [], (product, {}, A, B))

    def get_execution_plan_count(self) -> int:
        return len(self._frontend.plans)

    def get_plan_name_at_index(self, index: int) -> str:
        return self._frontend.plans[index]

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        assert index in self._built
        return 0

    def build_plan_at_index(self, index: int) -> None:
        if self._frontend.plans[index] == "unbuildable":
            raise UnsupportedError
        self._built.add(index)

    def execute_plan_at_index(self, addresses: dict[Tensor, int], scratch: int, index: int, handle: object) -> None:
        assert (handle, scratch > 0, index in self._built) == (self._frontend.handle, True, True)
        assert [address for address in addresses.values() if address % 16] == []
        name = self._frontend.plans[index]
        self._frontend.run.append((name, self._frontend.stream))
        if name == "two runtimes":
            raise RuntimeError("Multiple libcudart libraries found: libcudart.so.12 and libcudart.so.13")
        if name == "breaks":
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
        if name == "waits":
            TAPE.refuse("a wait for the device")
        TAPE.do(partial(self._do, name, addresses))

    def _do(self, name: str, addresses: dict[Tensor, int]) -> None:
        """Compute the graph, and write its output."""
        (output,) = (tensor for tensor in addresses if tensor.made)
        function, window, *tensors = output.made
        inputs = [tensor.at(addresses[tensor], self._dtype).astype(np.float64) for tensor in tensors]
        if name == "skips":  # the last pixel of the last image, or number of the last matrix
            inputs[0][-1, ..., -1, -1] = 0
        if name != "writes nothing":
            output.at(addresses[output], self._dtype)[...] = function(window, output.dim, *inputs)
        CARD.took(milliseconds(name))


class Frontend:
    """A stand-in for the module cudnn."""

    cudnnGraphNotSupportedError = UnsupportedError  # noqa: N815
    data_type = SimpleNamespace(FLOAT="float32", BFLOAT16="bfloat16")
    numerical_note = SimpleNamespace(NONDETERMINISTIC=0, REDUCED_PRECISION_REDUCTION=1, TENSOR_CORE=2)
    heur_mode = SimpleNamespace(A=0, FALLBACK=1)

    def __init__(self, *plans: str) -> None:
        self.plans, self.run, self.stream = plans, list[tuple[str, int]](), 0
        self.handle = object()  # no number, and nothing that becomes one
        self.pygraph = partial(Graph, self)

    def backend_version_string(self) -> str:
        return "9.28.1"

    def backend_version(self) -> int:
        return 92801

    def create_handle(self) -> object:
        return self.handle

    def set_stream(self, handle: object, stream: int) -> None:
        assert handle is self.handle
        self.stream = stream


class StandInCard:
    """A card with the host's memory. A plan takes the milliseconds in its name, other work `own`."""

    name = "Some card"

    def __init__(self, frontend: Frontend) -> None:
        self._frontend, self.recording, self.current, self.own = frontend, False, 1, 100.0

    def stream(self) -> int:
        return self.current

    def capturing(self) -> bool:
        return self.recording

    def address(self, array: np.ndarray) -> int:
        assert array.flags.c_contiguous
        return array.ctypes.data

    def milliseconds(self, run: Callable[[], object]) -> float:
        before = len(self._frontend.run)
        run()
        done = self._frontend.run[before:]
        return milliseconds(done[-1][0]) if done else self.own


def milliseconds(name: str) -> float:
    """Return the duration of a plan in milliseconds."""
    return float(name.removeprefix("right ")) if name.startswith("right ") else 1.0


def torch_of(*arrays: np.ndarray) -> Any:
    torch = pytest.importorskip("torch")

    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


def padding(window: dict[str, list[int]]) -> list[int]:
    """Return the padding left, right, top and bottom, in Torch's order."""
    (top, left), (bottom, right) = window["pre_padding"], window["post_padding"]
    return [left, right, top, bottom]


def forward(
    window: dict[str, list[int]], dim: list[int], x: np.ndarray, w: np.ndarray, *residual_and_bias: np.ndarray
) -> np.ndarray:
    functional = pytest.importorskip("torch").nn.functional

    x, w = torch_of(x, w)
    return functional.conv2d(functional.pad(x, padding(window)), w, None, window["stride"]).numpy() + sum(
        residual_and_bias
    )


def backward_x(window: dict[str, list[int]], dim: list[int], dy: np.ndarray, w: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")

    left, right, top, bottom = padding(window)
    n, c, height, width = dim
    padded = (n, c, height + top + bottom, width + left + right)
    dx = torch.nn.grad.conv2d_input(padded, *torch_of(w, dy), window["stride"])
    return dx[:, :, top : top + height, left : left + width].numpy()


def backward_w(window: dict[str, list[int]], dim: list[int], x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")

    x, dy = torch_of(x, dy)
    padded = torch.nn.functional.pad(x, padding(window))
    return torch.nn.grad.conv2d_weight(padded, dim, dy, window["stride"]).numpy()


def product(window: dict[str, list[int]], dim: list[int], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b
