"""What every operation keeps besides its numbers: residuals in training alone, no state, one type, one signature."""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from helpers.comparison import frozen
from helpers.operations import ALL_SHAPES, OPERATIONS, make_case, name_of
from tinyddpm import registry
from tinyddpm.backend import load_backend
from tinyddpm.ops import Operations
from tinyddpm.ops.numpy_operations import NumpyOperations

NUMPY = load_backend("numpy")
KINDS = pytest.mark.parametrize("kind", [Operations, NumpyOperations], ids=["reference", "numpy"])


@KINDS
@pytest.mark.parametrize("operation", OPERATIONS)
def test_saves_only_in_training(kind: type[Operations], operation: str) -> None:
    """Without training `saved` is None; the value is the same, bit for bit."""
    case = make_case(operation, OPERATIONS[operation].shapes[-1], seed=1)
    y, saved = case.forward(kind(NUMPY))
    y_training, saved_training = case.forward(kind(NUMPY, training=True))
    assert saved is None
    assert saved_training is not None
    np.testing.assert_array_equal(y, y_training)


@KINDS
@pytest.mark.parametrize(("operation", "shape"), ALL_SHAPES, ids=name_of)
def test_backward_can_be_repeated(kind: type[Operations], operation: str, shape: dict[str, int]) -> None:
    """A backward changes neither its residuals nor the inputs they may be: run twice, it returns the same bits."""
    case = make_case(operation, shape, seed=1).map(frozen)
    ops = kind(NUMPY, training=True)
    y, saved = case.forward(ops)
    dy = case.dy(y, np.random.default_rng(2))
    first = {name: gradient.copy() for name, gradient in case.backward(ops, saved, dy).items()}
    for name, gradient in case.backward(ops, saved, dy).items():
        np.testing.assert_array_equal(gradient, first[name], err_msg=name)


@KINDS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_computes_in_the_type_of_its_input(kind: type[Operations], operation: str, dtype: type) -> None:
    ops = kind(NUMPY, training=True)
    case = make_case(operation, OPERATIONS[operation].shapes[-1], seed=1).astype(dtype)
    y, saved = case.forward(ops)
    gradients = case.backward(ops, saved, case.dy(y, np.random.default_rng(2)))
    assert {"y": y.dtype, **{name: g.dtype for name, g in gradients.items()}} == dict.fromkeys(
        ["y", *case.inputs], dtype
    )


STORING = {f"{name}_backward" for name, operation in OPERATIONS.items() if operation.vectors}
"""The backwards that, where a class `stores`, take `into` and `added` as well: those that layers call."""


def override_faults(override: type[Operations]) -> list[str]:
    """Return what a backend's operations class may not do: add public methods, or change a signature."""
    faults = [] if issubclass(override, Operations) else ["is not a subclass of Operations"]
    for name, method in inspect.getmembers(override, inspect.isfunction):
        reference = getattr(Operations, name, None)
        if name.startswith("_"):
            continue
        if reference is None:
            faults.append(f"adds {name}")
        elif _arguments(method) != _arguments(reference) + (_MORE if name in STORING and override.stores else []):
            faults.append(f"changes the arguments of {name}")
    return faults


def _arguments(method: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]


_MORE = [(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default) for name, default in (("into", None), ("added", ()))]


BACKENDS = [entry.name for entry in registry.entries("backends")]


def operations_of(backend: str) -> type[Operations]:
    """Return the operations class of a backend; skip if what it computes by is not installed."""
    try:
        found: type[Operations] = EntryPoint("operations", registry.load("backends", backend).operations, "").load()
    except ImportError as error:
        if (error.name or "").partition(".")[0] == backend:
            pytest.skip(f"{backend} is not installed")
        raise
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_overrides_keep_the_signatures(backend: str) -> None:
    """Of every registered backend: the same methods as the reference, with the same arguments and defaults."""
    assert override_faults(operations_of(backend)) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_overridden_is_told(backend: str) -> None:
    """An operation's entry names each backend whose class overrides it, or its backward."""
    override = operations_of(backend)
    overridden = {
        name
        for name in OPERATIONS
        if any(getattr(override, each) is not getattr(Operations, each) for each in (name, f"{name}_backward"))
    }
    told = {name for name, entry in OPERATIONS.items() if backend in entry.kernels}
    assert overridden - told == set(), f"{backend} is missing in `kernels` of these in tests/helpers/operations/"


@pytest.mark.parametrize("stores", [False, True])
def test_what_stores_takes_places_and_nothing_else_does(stores: bool) -> None:
    class Storing(Operations):
        def linear_backward(self, saved, dy, into=None, added=()):  # type: ignore[no-untyped-def]
            raise NotImplementedError

    Storing.stores = stores
    others = STORING - {"linear_backward"} if stores else {"linear_backward"}
    assert override_faults(Storing) == [f"changes the arguments of {name}" for name in sorted(others)]


def test_finds_the_faults_of_an_override() -> None:
    """The check above would see each fault it looks for."""

    class Faulty(Operations):
        def silu(self, x, inplace=False):  # type: ignore[no-untyped-def]
            raise NotImplementedError

        def conv2d(self, x, w, b, stride=2):  # type: ignore[no-untyped-def]
            raise NotImplementedError

        def linear(self, x, weight, b):  # type: ignore[no-untyped-def]
            raise NotImplementedError

        def gelu(self, x):  # type: ignore[no-untyped-def]
            raise NotImplementedError

        def relu(self, x):  # type: ignore[no-untyped-def]
            raise NotImplementedError

    assert override_faults(Faulty) == [
        "changes the arguments of conv2d",
        "changes the arguments of linear",
        "adds relu",
        "changes the arguments of silu",
    ]
