"""Torch's overrides against the reference operations on the same tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.comparison import assert_close
from helpers.operations import ALL_SHAPES, LAYOUTS, OPERATIONS, Case, make_case, name_of
from tinyddpm.backend import Backend, load_backend
from tinyddpm.errors import BackendError
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.torch_operations import TorchOperations

TORCH = load_backend("torch")
REFERENCE, OURS = Operations(TORCH, training=True), TorchOperations(TORCH, training=True)

OVERRIDDEN = [case for case in ALL_SHAPES if "torch" in OPERATIONS[case[0]].kernels]


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    with TORCH.scope():
        yield


def compare(case: Case, rtol: float, floor: float = 0.0) -> None:
    """Check y and all gradients of a case against the reference's."""
    results = []
    for ops in (REFERENCE, OURS):
        y, saved = case.forward(ops)
        dy = torch.from_numpy(np.random.default_rng(7).normal(size=y.shape)).to(y.dtype)
        results.append({"y": y, **case.backward(ops, saved, dy)})
    for name, expected in results[0].items():
        assert_close(results[1][name].numpy(), expected.numpy(), rtol, f"{name} of {case.operation}", floor)


def test_these_are_the_torch_backends() -> None:
    assert type(load_operations(TORCH)) is TorchOperations


SIDES, CHANNELS = st.integers(1, 9), st.integers(1, 7)


@pytest.mark.slow
@given(
    n=st.integers(1, 4), h=SIDES, w=SIDES, c_in=CHANNELS, c_out=CHANNELS, kh=st.integers(1, 5), kw=st.integers(1, 5),
    stride=st.integers(1, 3), residual=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_convolution(
    n: int, h: int, w: int, c_in: int, c_out: int, kh: int, kw: int, stride: int, residual: bool, seed: int
) -> None:
    """Value and gradients in float64, within 1e-12 of 1 or more: any kernel, so that padding is alike on both sides,
    one longer at the end, and each in its own direction."""
    rng = np.random.default_rng(seed)
    shapes = {"x": (n, h, w, c_in), "w": (kh, kw, c_in, c_out), "b": (c_out,)}
    if residual:
        shapes["residual"] = (n, -(-h // stride), -(-w // stride), c_out)
    inputs = {name: torch.from_numpy(rng.normal(size=shape)) for name, shape in shapes.items()}
    compare(Case("conv2d", inputs, {"stride": stride}), 1e-12, floor=1.0)


@given(
    leading=st.lists(SIDES, min_size=1, max_size=3), groups=st.integers(1, 4), of_each=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_group_norm(leading: list[int], groups: int, of_each: int, seed: int) -> None:
    """Value and gradients in float64, within 1e-12 of 1 or more: images, rows of tokens, single vectors.

    ε is 1e-2: in a group of few, almost equal elements a smaller one makes the gradient a matter of rounding.
    """
    rng = np.random.default_rng(seed)
    c = groups * of_each
    shapes = {"x": (*leading, c), "scale": (c,), "shift": (c,)}
    inputs = {name: torch.from_numpy(rng.normal(size=shape)) for name, shape in shapes.items()}
    compare(Case("group_norm", inputs, {"groups": groups, "eps": 1e-2}), 1e-12, floor=1.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("operation", "shape"), OVERRIDDEN, ids=name_of)
def test_any_memory_layout(operation: str, shape: dict[str, int], layout: str) -> None:
    """Value and gradients in float64, within 1e-12 of the largest, of inputs that are views of other memory."""

    def laid_out(a: np.ndarray) -> torch.Tensor:
        if layout == "strided":  # Torch has no negative strides: every second element, forwards.
            gap = True if a.dtype == bool else torch.nan
            around = torch.full([2 * side for side in a.shape], gap).to(torch.from_numpy(a).dtype)
            view = around[tuple(slice(None, None, 2) for _ in a.shape)]
            return view.copy_(torch.from_numpy(a))
        return torch.from_numpy(LAYOUTS[layout](a))

    compare(make_case(operation, shape, seed=9).map(laid_out), 1e-12)


def test_images_of_the_sizes_that_networks_have() -> None:
    """In float32, where oneDNN convolves, on more channels than a vector register holds: within 2e-5 of the largest."""
    for stride in (1, 2):
        case = make_case(
            "conv2d", {"n": 2, "h": 16, "w": 16, "c_in": 48, "c_out": 64, "kernel": 3, "stride": stride}, 3
        )
        compare(case.map(lambda a: torch.from_numpy(a.astype(np.float32))), 2e-5)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_group_norm_bears_a_large_mean(mean: float) -> None:
    """float32 elements of deviation 1 are standardised as in float64, to 2e-4, and so are their gradients.

    E[x²] − E[x]² of a mean of 1000 would be off by a hundred times that, and is: see `TorchOperations.group_norm`.
    """
    rng = np.random.default_rng(8)
    x, dy = (torch.from_numpy(a) for a in rng.normal(size=(2, 2, 8, 8, 32)).astype(np.float32))
    scale, shift = (torch.from_numpy(a) for a in rng.normal(size=(2, 32)).astype(np.float32))
    x += mean
    y, saved = OURS.group_norm(x, scale, shift, 4)
    exact, exact_saved = REFERENCE.group_norm(x.double(), scale.double(), shift.double(), 4)
    assert_close(y.double().numpy(), exact.numpy(), 2e-4, "y")
    for found, expected in zip(
        OURS.group_norm_backward(saved, dy), REFERENCE.group_norm_backward(exact_saved, dy.double()), strict=True
    ):
        assert_close(found.double().numpy(), expected.numpy(), 2e-4, "gradient")


def test_activations_take_their_limits() -> None:
    """Where e^x is infinite or 0, SiLU, GELU and softmax are what they tend to."""
    x = torch.tensor([-1e4, -200.0, 0.0, 200.0, 1e4])
    for forward, backward in ((OURS.silu, OURS.silu_backward), (OURS.gelu, OURS.gelu_backward)):
        y, saved = forward(x)
        np.testing.assert_array_equal(y, [0, 0, 0, 200, 1e4])
        np.testing.assert_array_equal(backward(saved, torch.ones_like(x)), [0, 0, 0.5, 1, 1])
    q, v = torch.tensor([[[1e4], [-1e4]]]), torch.tensor([[[3.0], [5.0]]])
    np.testing.assert_array_equal(OURS.attention(q, q, v)[0], v)


@pytest.mark.gpu
@pytest.mark.parametrize(("operation", "shape"), OVERRIDDEN, ids=name_of)
def test_on_a_gpu(operation: str, shape: dict[str, int]) -> None:
    """Value and gradients in float64 are the CPU reference's, within 1e-12 of the largest."""
    gpu = gpu_backend("fp32")
    case = make_case(operation, shape, seed=9)
    results = []
    for backend, ops in ((TORCH, REFERENCE), (gpu, TorchOperations(gpu, training=True))):
        moved = case.map(backend.asarray)
        y, saved = moved.forward(ops)
        dy = backend.asarray(np.random.default_rng(7).normal(size=tuple(y.shape)))
        results.append({"y": y, **moved.backward(ops, saved, dy)})
    for name, expected in results[0].items():
        assert_close(gpu.to_numpy(results[1][name]), expected.numpy(), 1e-12, f"{name} of {operation}")


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "least", "most"), [("fp32", 0.0, 5e-5), ("tf32", 5e-5, 5e-3)])
@pytest.mark.parametrize("operation", ["conv2d", "linear"])
def test_precision_on_a_gpu(operation: str, precision: str, least: float, most: float) -> None:
    """float32 products are exact to float32's rounding, or to TF32's, 2⁻¹¹ of each factor, and no better.

    With N terms of size 1, TF32 is off by some 3e-4 √N, of which there are thousands, and sums reach 4 √N: 3e-4 of it.
    """
    gpu = gpu_backend(precision)
    shapes = {
        "conv2d": {"n": 4, "h": 16, "w": 16, "c_in": 64, "c_out": 64, "kernel": 3, "stride": 1},
        "linear": {"leading": (256,), "c_in": 256, "c_out": 256},
    }
    case = make_case(operation, shapes[operation], seed=9)
    exact, _ = case.map(TORCH.asarray).forward(REFERENCE)
    with gpu.scope():
        found, _ = case.map(lambda a: gpu.asarray(a.astype(np.float32))).forward(TorchOperations(gpu))
    error = np.abs(gpu.to_numpy(found) - exact.numpy()).max() / np.abs(exact.numpy()).max()
    assert least < error < most


def gpu_backend(precision: str) -> Backend:
    try:
        return load_backend("torch", "cuda", precision)
    except BackendError as error:
        pytest.skip(str(error))
