"""The reference operations on array-api-strict, Torch and (on a machine with a GPU) CuPy give NumPy's numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.comparison import assert_close
from helpers.operations import ALL_SHAPES, OPERATIONS, Case, make_case, name_of
from tinyddpm.backend import Backend
from tinyddpm.ops import load_operations

ROUNDINGS = 8
"""How far an element may be off, in units of rounding (machine epsilon) of the largest element: libraries sum in
different orders, and no case here sums more than some hundred terms."""


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("operation", "shape"), ALL_SHAPES, ids=name_of)
def test_gives_what_numpy_gives(
    numpy_backend: Backend, other_backend: Backend, operation: str, shape: dict[str, int], dtype: type
) -> None:
    """Forward and backward, in both types, within `ROUNDINGS` units of rounding."""
    case = make_case(operation, shape, seed=5).astype(dtype)
    compare_backends(numpy_backend, other_backend, case, rtol=ROUNDINGS * float(np.finfo(dtype).eps))


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_gives_what_numpy_gives_at_any_shape(
    numpy_backend: Backend, other_backend: Backend, operation: str, data: st.DataObject, seed: int
) -> None:
    """For random shapes, options and inputs in float64; gradients that mathematics makes 0 included, so within 1e-10
    of 1 or more."""
    case = make_case(operation, data.draw(OPERATIONS[operation].drawn, label="shape"), seed)
    compare_backends(numpy_backend, other_backend, case, rtol=1e-10, floor=1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sinusoids_are_numpys(numpy_backend: Backend, other_backend: Backend, dtype: str) -> None:
    """An angle of up to 1000 is rounded to 1000 epsilon, and so is its sine: within twice that."""
    steps = np.asarray([0, 1, 17, 999])
    expected, found = (
        backend.to_numpy(load_operations(backend).sinusoidal(backend.asarray(steps), 12, getattr(backend.xp, dtype)))
        for backend in (numpy_backend, other_backend)
    )
    assert_close(found, expected, 2000 * float(np.finfo(dtype).eps), "the embedding")


def compare_backends(one: Backend, other: Backend, case: Case, rtol: float, floor: float = 0.0) -> None:
    dy = case.dy(np.asarray(case.forward(load_operations(one))[0]), np.random.default_rng(6))
    results = []
    for backend in (one, other):
        moved = case.map(backend.asarray)
        ops = load_operations(backend, training=True)
        y, saved = moved.forward(ops)
        gradients = moved.backward(ops, saved, backend.asarray(dy) if isinstance(dy, np.ndarray) else dy)
        results.append({"y": y, **gradients})
    for name, expected in results[0].items():
        found = other.to_numpy(results[1][name])
        assert_close(found, expected, rtol, f"{name} of {case.operation}", floor)
