"""CupyOperations against the reference operations on NumPy: numbers, shapes, types and bounds.

Without a GPU the kernels run on the CPU, with a GPU's grid, blocks and shared memory. Every array then lies between
guards that no kernel may write to, and new arrays are full of NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.comparison import assert_close, frozen
from helpers.cuda_shim import ShimBackend
from helpers.operations import ALL_SHAPES, LAYOUTS, OPERATIONS, Case, make_case, name_of
from tinyddpm.backend import Backend, Random, load_backend
from tinyddpm.nn import DropoutNoise
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.activation import Dropout
from tinyddpm.ops.cuda.cudnn_frontend import Convolution, tolerance
from tinyddpm.ops.cupy_operations import CupyOperations

pytestmark = pytest.mark.slow

EPSILON = float(np.finfo(np.float32).eps)
REFERENCE = Operations(load_backend("numpy"), training=True)

Layout: TypeAlias = Callable[[np.ndarray], np.ndarray]

WITH_KERNEL = [name for name, operation in OPERATIONS.items() if "cupy" in operation.kernels]
"""The others CupyOperations leaves to the reference."""

LARGE: list[tuple[str, dict[str, Any]]] = [
    ("conv2d", {"n": 2, "h": 5, "w": 3, "c_in": 70, "c_out": 3, "kernel": 3, "stride": 1}),
    ("conv2d", {"n": 1, "h": 7, "w": 4, "c_in": 300, "c_out": 2, "kernel": 3, "stride": 2}),
    ("group_norm", {"leading": (2, 9, 7), "groups": 8, "each": 4}),
    ("group_norm", {"leading": (2, 3, 3), "groups": 7, "each": 3}),
    ("group_norm", {"leading": (1, 3, 2), "groups": 2, "each": 530}),
    ("group_norm", {"leading": (2, 16, 16), "groups": 4, "each": 8}),
    ("group_norm_silu", {"leading": (3, 4, 4), "groups": 8, "each": 4, "modulated": True}),
    ("group_norm_silu", {"leading": (2, 9, 7), "groups": 3, "each": 20, "modulated": True}),
    ("group_norm_silu", {"leading": (1, 2, 2), "groups": 1, "each": 600, "modulated": False}),
    ("group_norm_silu", {"leading": (11, 3), "groups": 4, "each": 5, "modulated": True}),
    ("group_norm_silu", {"leading": (3, 4, 4), "groups": 8, "each": 4, "modulated": False, "rate": 0.1}),
    ("group_norm_silu", {"leading": (2, 9, 7), "groups": 3, "each": 20, "modulated": True, "rate": 0.3}),
    ("group_norm_silu", {"leading": (2, 9, 7), "groups": 3, "each": 7, "modulated": True, "rate": 0.3}),
    ("group_norm_silu", {"leading": (2, 16, 16), "groups": 4, "each": 8, "modulated": False, "rate": 0.6}),
    ("layer_norm", {"leading": (2, 5), "c": 700}),
    ("modulate", {"n": 2, "pixels": (5, 5), "c": 70}),
    ("add_vector", {"n": 2, "pixels": (5, 5), "c": 70}),
    ("modulate", {"n": 3, "pixels": (11, 9), "c": 36}),
    ("add_vector", {"n": 3, "pixels": (11, 9), "c": 36}),
    ("silu", {"shape": (3, 257)}),
    ("dropout", {"shape": (2, 300), "rate": 0.4}),
    ("attention", {"n": 2, "queries": 9, "keys": 75, "heads": 2, "each": 5}),
    ("upsample", {"n": 2, "h": 3, "w": 2, "c": 270}),
    ("upsample", {"n": 2, "h": 7, "w": 9, "c": 36}),
    ("average_pool", {"n": 2, "h": 7, "w": 9, "c": 36}),
    ("concat", {"leading": (2, 13, 11), "c_a": 8, "c_b": 16}),
    ("concat", {"leading": (7,), "c_a": 1100, "c_b": 4}),
    ("mse", {"shape": (5, 333)}),
]
"""More channels than threads, several blocks and chunks of groups, tiles that fill much shared memory, and packs."""


def single(operation: str, shape: Mapping[str, Any], seed: int) -> Case:
    return make_case(operation, shape, seed).astype(np.float32)


def of_cudnn(ops: CupyOperations, case: Case, name: str) -> float:
    """Return how far a plan of cuDNN's may be from this package's kernels, where such plans are chosen from."""
    wanted = {"y": "y + residual" if "residual" in case.inputs else "y", "x": "dx", "w": "dw"}
    if ops._planner is None or case.operation not in ("conv2d", "linear") or name not in wanted:
        return 0.0
    x, w = (case.inputs[key].shape for key in "xw")
    if case.operation == "linear":
        x, w = (x[0], 1, prod(x[1:-1]), x[-1]), (1, 1, *w)
    return tolerance(Convolution(wanted[name], x, w, case.others.get("stride", 1), ops.backend.precision))[0]


def compare(cuda: Backend, case: Case, rtol: float, floor: float = 0.0, layout: Layout = np.asarray) -> None:
    """Check y and all gradients of CupyOperations against the reference, given read-only arrays of some layout.

    A convolution may be off by what its plan was accepted with as well.
    """
    y, saved = case.forward(REFERENCE)
    dy = case.dy(y, np.random.default_rng(6))
    expected = {"y": y, **case.backward(REFERENCE, saved, dy)}

    def moved(array: np.ndarray) -> Any:
        return cuda.asarray(frozen(layout(array)))

    ops = load_operations(cuda, training=True)
    assert isinstance(ops, CupyOperations)
    y, saved = case.map(moved).forward(ops)
    found = {"y": y, **case.map(moved).backward(ops, saved, moved(dy) if isinstance(dy, np.ndarray) else dy)}
    for name, array in expected.items():
        size = max(float(np.max(np.abs(array), initial=0.0)), floor) + of_cudnn(ops, case, name) / rtol
        assert_close(cuda.to_numpy(found[name]), array, rtol, f"{name} of {case.operation}", size)


@pytest.mark.parametrize(("operation", "shape"), ALL_SHAPES + LARGE, ids=name_of)
def test_gives_what_the_reference_gives(cuda: Backend, operation: str, shape: dict[str, Any]) -> None:
    """In float32, within 16 units of rounding of the largest element (longest sum: 2,700 terms)."""
    compare(cuda, single(operation, shape, seed=5), 16 * EPSILON)


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12)
@pytest.mark.parametrize("operation", [name for name in WITH_KERNEL if name != "group_norm_silu"])
def test_gives_what_the_reference_gives_at_any_shape(
    cuda: Backend, operation: str, data: st.DataObject, seed: int
) -> None:
    """For random shapes and options in float32, within 1e-4 of 1 or of the largest element.

    Not for norms with a small ε: in a group of few, almost equal elements it multiplies what is rounded.
    """
    shape = data.draw(OPERATIONS[operation].drawn, label="shape")
    if "eps" in shape:
        shape["eps"] = max(shape["eps"], 1e-2)
    compare(cuda, single(operation, shape, seed), 1e-4, floor=1.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_takes_any_layout_and_changes_no_input(cuda: Backend, operation: str, layout: str) -> None:
    """Inputs and dy in three orders of memory, all read-only."""
    compare(cuda, single(operation, OPERATIONS[operation].shapes[-1], seed=7), 16 * EPSILON, layout=LAYOUTS[layout])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_run_for_float32_and_leave_float64_to_the_reference(shim: ShimBackend, operation: str) -> None:
    case = make_case(operation, OPERATIONS[operation].shapes[0], seed=1)
    compare(shim, case, rtol=1e-12)
    assert set(shim.launched) <= {"philox_bits"}  # dropout's mask, whose type is its own
    shim.launched.clear()
    compare(shim, case.astype(np.float32), 16 * EPSILON)
    assert bool(shim.launched) == (operation in WITH_KERNEL)


@pytest.mark.parametrize("operation", ["group_norm", "layer_norm", "group_norm_silu"])
def test_a_whole_number_is_as_good_as_a_fraction(cuda: Backend, operation: str) -> None:
    """As in `--set network.norm_eps=1`: a kernel would read the bits of the integer 1 as a float of 1e-45."""
    case = single(operation, OPERATIONS[operation].shapes[-1], seed=5)
    compare(cuda, replace(case, others={**case.others, "eps": 1}), 16 * EPSILON)


@pytest.mark.parametrize("operation", ["dropout", "group_norm_silu"])
def test_dropout_by_a_step_that_lies_on_the_device(shim: ShimBackend, operation: str) -> None:
    """The kernel draws for what step and samples hold when it runs, and the mask is no launch of its own."""
    x, scale = np.random.default_rng(1).normal(size=(2, 3, 5, 8)).astype(np.float32), np.ones(8, np.float32)
    ops, random = load_operations(shim, training=True), shim.random(7)
    held = DropoutNoise(random, np.zeros(1, np.int64), np.zeros(2, np.int64))

    def run(noise: DropoutNoise) -> tuple[np.ndarray, np.ndarray]:
        dropout = Dropout(noise, 0.4, layer=3)
        norm = (scale, scale, 4, ()) if operation == "group_norm_silu" else ()
        y, saved = getattr(ops, operation)(x, *norm, dropout)
        dx = getattr(ops, f"{operation}_backward")(saved, x)
        return y, dx[0] if isinstance(dx, tuple) else dx

    first = run(held)
    held.step[...], held.samples[...] = 2**31 + 9, [4, 2**32 - 1]
    for found, expected in zip(run(held), run(DropoutNoise(random, 2**31 + 9, [4, 2**32 - 1])), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(run(held)[0] == 0, first[0] == 0)
    assert "philox_bits" not in shim.launched


@pytest.mark.parametrize("operation", ["dropout", "group_norm_silu"])
def test_a_mask_that_no_kernel_draws(shim: ShimBackend, operation: str) -> None:
    """Random numbers of another kind, here the reference's, make dropout the reference's."""
    x, scale = np.random.default_rng(1).normal(size=(2, 3, 5, 8)).astype(np.float32), np.ones(8, np.float32)
    norm = (scale, scale, 4, ()) if operation == "group_norm_silu" else ()
    found = []
    for ops in (load_operations(shim, training=True), REFERENCE):
        dropout = Dropout(DropoutNoise(Random(np, 7), 3, [0, 5]), 0.4, layer=1)
        y, saved = getattr(ops, operation)(x, *norm, dropout)
        dx = getattr(ops, f"{operation}_backward")(saved, x)
        found.append((y, dx[0] if isinstance(dx, tuple) else dx))
    for ours, expected in zip(*found, strict=True):
        assert_close(ours, expected, 16 * EPSILON, operation)
    assert "dropout" not in shim.launched


def test_parameters_in_float64_are_views_of_their_buffer(shim: ShimBackend) -> None:
    buffer = np.arange(14.0)
    for matrix in load_operations(shim).weights(buffer, [(3, 2), (8,)]):
        assert np.shares_memory(matrix, buffer)
    assert shim.launched == []


def test_groups_too_wide_for_a_block_go_to_the_reference(shim: ShimBackend) -> None:
    case = single("group_norm", {"leading": (2, 2), "groups": 1, "each": 4100}, seed=3)
    compare(shim, case, 16 * EPSILON)
    assert shim.launched == []


def test_one_gradient_for_all_losses(shim: ShimBackend) -> None:
    """By a kernel of its own: what an array of the same numbers gives. A sample has more elements than threads."""
    case = single("mse", {"shape": (5, 333)}, seed=5)
    ops = load_operations(shim, training=True)
    _, saved = case.forward(ops)
    shim.launched.clear()
    found = ops.mse_backward(saved, 0.3)
    assert shim.launched == ["error_gradient"]
    expected = ops.mse_backward(saved, shim.asarray(np.full(5, 0.3, np.float32)))
    np.testing.assert_allclose(found, expected, rtol=4 * EPSILON)


def test_nothing_is_kept_without_training(shim: ShimBackend) -> None:
    for operation, shape in ALL_SHAPES:
        y, saved = single(operation, shape, seed=1).forward(load_operations(shim))
        assert saved is None, operation
        assert not np.isnan(y).any()
