"""Every hand-derived gradient in float64: by random projection, and against Torch's automatic differentiation."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.cases import (
    ALL_SHAPES,
    BUILDERS,
    DRAWN,
    LAYOUTS,
    NOT_DIFFERENTIABLE,
    NOT_OPERATIONS,
    SHAPES,
    Case,
    make_case,
    name_of,
)
from helpers.comparison import assert_close, frozen
from helpers.torch_operations import TORCH_OPERATIONS
from tinyddpm.ops import Operations
from tinyddpm.testing.gradients import check_projection


def test_every_operation_is_checked() -> None:
    """A new operation fails here until it has cases of its own."""
    forwards = set(BUILDERS)
    public = {name for name, _ in inspect.getmembers(Operations, inspect.isfunction) if not name.startswith("_")}
    assert public == forwards | {f"{name}_backward" for name in forwards} | NOT_DIFFERENTIABLE | NOT_OPERATIONS
    assert forwards == set(SHAPES) == set(DRAWN) == set(TORCH_OPERATIONS)


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
@pytest.mark.parametrize("operation", BUILDERS)
def test_matches_torch_autograd_at_any_shape(ops: Operations, operation: str, data: st.DataObject, seed: int) -> None:
    """For random shapes, options and inputs; gradients that mathematics makes 0 included, so within 1e-10 of 1 or more.

    In a group of almost equal elements r = (σ² + ε)^(−1/2) reaches 1000 and amplifies rounding.
    """
    case = make_case(operation, data.draw(DRAWN[operation], label="shape"), seed)
    compare_with_torch(ops, case, rtol=1e-10, floor=1.0)


def compare_with_torch(ops: Operations, case: Case, rtol: float, floor: float = 0.0) -> None:
    y, saved = case.forward(ops)
    dy = case.dy(y, np.random.default_rng(4))
    gradients = case.backward(ops, saved, dy)

    inputs = {name: torch.tensor(np.array(a), requires_grad=True) for name, a in case.inputs.items()}
    others = {name: torch.tensor(np.array(a)) if isinstance(a, np.ndarray) else a for name, a in case.others.items()}
    y_torch = TORCH_OPERATIONS[case.operation](**inputs, **others)
    y_torch.backward(torch.as_tensor(dy, dtype=torch.float64))

    assert_close(y, y_torch.detach().numpy(), rtol, f"y of {case.operation}", floor)
    for name, gradient in gradients.items():
        expected = inputs[name].grad
        assert expected is not None
        assert_close(gradient, expected.numpy(), rtol, f"d{name} of {case.operation}", floor)
