"""Every hand-derived gradient in float64: by random projection, and against Torch's automatic differentiation."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.comparison import assert_close, frozen
from helpers.operations import (
    ALL_SHAPES,
    LAYOUTS,
    NOT_DIFFERENTIABLE,
    NOT_OPERATIONS,
    OPERATIONS,
    Case,
    make_case,
    name_of,
)
from tinyddpm.ops import Operations
from tinyddpm.testing.gradients import check_projection


def test_every_operation_is_checked() -> None:
    """A new operation fails here until it has an entry, and an entry whose operation is gone."""
    public = {name for name, _ in inspect.getmembers(Operations, inspect.isfunction) if not name.startswith("_")}
    told = {*OPERATIONS, *(f"{name}_backward" for name in OPERATIONS), *NOT_DIFFERENTIABLE, *NOT_OPERATIONS}
    assert public - told == set(), "without an entry in tests/helpers/operations/"
    assert told - public == set(), "in tests/helpers/operations/, but not in Operations"


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("operation", "shape"), ALL_SHAPES, ids=name_of)
def test_gradients_by_projection(
    ops: Operations, operation: str, shape: dict[str, int], layout: str, seed: int
) -> None:
    """Along a random direction of each input, at rtol 1e-6, with inputs and dy read-only and in any memory layout."""
    rng = np.random.default_rng(seed)
    case = make_case(operation, shape, seed)
    laid_out = case.map(lambda a: frozen(LAYOUTS[layout](a)))
    y, saved = laid_out.forward(ops)
    assert_close(y, case.forward(ops)[0], 1e-12, f"y of {layout} inputs")
    dy = case.dy(y, rng)
    gradients = case.backward(ops, saved, frozen(LAYOUTS[layout](dy)) if isinstance(dy, np.ndarray) else dy)
    for name, gradient in gradients.items():

        def value(changed: np.ndarray, name: str = name) -> np.ndarray:
            return np.asarray(case.forward(ops, **{name: changed})[0])

        check_projection(value, case.inputs[name], np.asarray(dy), gradient, rng, f"{name} of {operation}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("operation", "shape"), ALL_SHAPES, ids=name_of)
def test_matches_torch_autograd(ops: Operations, operation: str, shape: dict[str, int], layout: str) -> None:
    """Value and gradients in float64, within 1e-12 of the largest element."""
    case = make_case(operation, shape, seed=3)
    compare_with_torch(ops, case.map(LAYOUTS[layout]), rtol=1e-12)


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_matches_torch_autograd_at_any_shape(ops: Operations, operation: str, data: st.DataObject, seed: int) -> None:
    """For random shapes, options and inputs; gradients that mathematics makes 0 included, so within 1e-10 of 1 or more.

    In a group of almost equal elements r = (σ² + ε)^(−1/2) reaches 1000 and amplifies rounding.
    """
    case = make_case(operation, data.draw(OPERATIONS[operation].drawn, label="shape"), seed)
    compare_with_torch(ops, case, rtol=1e-10, floor=1.0)


def compare_with_torch(ops: Operations, case: Case, rtol: float, floor: float = 0.0) -> None:
    y, saved = case.forward(ops)
    dy = case.dy(y, np.random.default_rng(4))
    gradients = case.backward(ops, saved, dy)

    inputs = {name: torch.tensor(np.array(a), requires_grad=True) for name, a in case.inputs.items()}
    others = {name: torch.tensor(np.array(a)) if isinstance(a, np.ndarray) else a for name, a in case.others.items()}
    y_torch = OPERATIONS[case.operation].by_torch(**inputs, **others)
    y_torch.backward(torch.as_tensor(dy, dtype=torch.float64))

    assert_close(y, y_torch.detach().numpy(), rtol, f"y of {case.operation}", floor)
    for name, gradient in gradients.items():
        expected = inputs[name].grad
        assert expected is not None
        assert_close(gradient, expected.numpy(), rtol, f"d{name} of {case.operation}", floor)
