"""Operations on bfloat16 activations: computed in float32, rounded once, gradients of parameters left in float32.

Figures are the reference's in float64 on the same rounded inputs. What is stored in bfloat16 is off by at most half a
last place of itself, 2^-8, and by what float32 arithmetic is off in all; what is left in float32 by the latter alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.bfloat16 import BFLOAT16, FLOAT32, ROUNDING, STORED, stored
from helpers.cuda_shim import COMPILER, ShimBackend
from helpers.networks import SKETCHES, Setting
from helpers.operations import OPERATIONS, make_case, name_of
from tinyddpm.backend import load_backend
from tinyddpm.ops import Operations, load_operations

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler to run the kernels with")

NUMPY = load_backend("numpy")
EXACT = Operations(NUMPY, training=True)

LARGE: list[tuple[str, dict[str, Any]]] = [
    ("group_norm_silu", {"leading": (2, 9, 7), "groups": 3, "each": 20, "modulated": True, "rate": 0.2}),
    ("group_norm_silu", {"leading": (2, 17, 9), "groups": 8, "each": 4, "modulated": False, "rate": 0.5}),
    ("group_norm", {"leading": (2, 3, 3), "groups": 7, "each": 3}),
    ("modulate", {"n": 2, "pixels": (5, 5), "c": 70}),
    ("add_vector", {"n": 2, "pixels": (5, 5), "c": 70}),
    ("silu", {"shape": (3, 1001)}),
    ("gelu", {"shape": (3, 1001)}),
    ("modulate", {"n": 3, "pixels": (21, 19), "c": 72}),
    ("add_vector", {"n": 3, "pixels": (21, 19), "c": 72}),
    ("upsample", {"n": 2, "h": 9, "w": 7, "c": 72}),
    ("average_pool", {"n": 2, "h": 9, "w": 7, "c": 72}),
    ("concat", {"leading": (2, 21, 19), "c_a": 8, "c_b": 16}),
    ("concat", {"leading": (7,), "c_a": 2104, "c_b": 8}),
]

SMALL = [case for case in STORED if not OPERATIONS[case[0]].multiplies]


def check(found: np.ndarray, exact: np.ndarray, dtype: Any, name: str) -> None:
    assert found.dtype == dtype, f"{name} is {found.dtype}"
    assert found.shape == exact.shape, name
    allowed = FLOAT32 * np.abs(exact).max(initial=0) + (ROUNDING * np.abs(exact) if dtype == BFLOAT16 else 0)
    error = np.abs(found.astype(np.float64) - exact)
    assert (error <= allowed).all(), f"{name} is off by {(error / allowed).max():.3g} of what is allowed"


@pytest.mark.parametrize(("operation", "shape"), SMALL + LARGE, ids=name_of)
@pytest.mark.parametrize("shared_memory", [8192, 232448])
def test_one_rounding(operation: str, shape: dict[str, Any], shared_memory: int) -> None:
    """Values and gradients of every operation, with blocks that have much shared memory and little."""
    compare(ShimBackend(shared_memory, precision="bf16"), operation, shape, np.asarray)


@pytest.mark.parametrize(("operation", "shape"), LARGE, ids=name_of)
def test_arrays_that_lie_askew(operation: str, shape: dict[str, Any]) -> None:
    """Views one number into a buffer, where no pack may begin."""

    def askew(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array.ravel()[:1], array.ravel()])[1:].reshape(array.shape)

    compare(ShimBackend(precision="bf16"), operation, shape, askew)


def compare(
    shim: ShimBackend, operation: str, shape: dict[str, Any], place: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Check values and gradients of kernels that are given arrays where `place` puts them."""
    ops = load_operations(shim, training=True)
    case, exact = stored(make_case(operation, shape, seed=9))
    case = case.map(place)
    y, saved = case.forward(ops)
    y_exact, saved_exact = exact.forward(EXACT)
    check(y, y_exact, BFLOAT16, f"y of {operation}")
    dy = place(case.dy(y_exact, np.random.default_rng(1)).astype(BFLOAT16))
    gradients = exact.backward(EXACT, saved_exact, dy.astype(np.float64))
    for name, gradient in case.backward(ops, saved, dy).items():
        dtype = np.float32 if name in OPERATIONS[operation].parameters else BFLOAT16
        check(gradient, gradients[name], dtype, f"d{name} of {operation}")


def test_sinusoids() -> None:
    """Angles up to 1000 are float32's: in bfloat16 they would be off by whole turns."""
    ops, t = load_operations(ShimBackend(precision="bf16")), np.asarray([0, 3, 501, 999])
    found, exact = ops.sinusoidal(t, 12, BFLOAT16), EXACT.sinusoidal(t, 12, np.float64)
    assert found.dtype == BFLOAT16
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=ROUNDING, atol=1000 * FLOAT32)


def test_embedding() -> None:
    table = np.random.default_rng(1).normal(size=(4, 6)).astype(BFLOAT16)
    y, _ = load_operations(ShimBackend(precision="bf16")).embedding(table, np.asarray([3, 0, 3]))
    assert y.dtype == BFLOAT16
    np.testing.assert_array_equal(y, table[[3, 0, 3]])


@pytest.mark.slow
@pytest.mark.parametrize("name", SKETCHES)
def test_networks(name: str) -> None:
    """Prediction, dx and all gradients as vectors, against float64 on the same rounded numbers, dropout included.

    On the longest way lie below 100 roundings, each of which adds at random up to 2^-8 of what passes: √100 · 2^-8.
    """
    shim, setting = ShimBackend(precision="bf16"), Setting(SKETCHES[name])
    w = {path: a.astype(BFLOAT16 if a.ndim > 1 else np.float32) for path, a in setting.weights.items()}
    x, dout = setting.x.astype(BFLOAT16), setting.dout.astype(BFLOAT16)
    ops, buffer = load_operations(shim, training=True), np.zeros(setting.layout.size, np.float32)
    out, saved = setting.network.forward(ops, w, x, setting.t, setting.cond, setting.noise(shim))
    dx = setting.network.backward(saved, setting.layout.views(buffer, np), dout)
    assert (out.dtype, dx.dtype) == (BFLOAT16, BFLOAT16)

    setting.weights = {path: a.astype(np.float64) for path, a in w.items()}
    setting.x, setting.dout = x.astype(np.float64), dout.astype(np.float64)
    out_exact, dw_exact, dx_exact = setting.gradients(NUMPY)
    gradients = np.concatenate([dw.ravel() for dw in dw_exact.values()])
    for found, exact in ((out, out_exact), (dx, dx_exact), (buffer, gradients)):
        assert np.linalg.norm(found.astype(np.float64) - exact) <= 10 * ROUNDING * np.linalg.norm(exact)
