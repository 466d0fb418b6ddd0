"""Mixed precision: which numbers are stored how."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from helpers.networks import SKETCHES
from tinyddpm.backend import Backend, load_backend
from tinyddpm.nn import Layout, Told, Widths
from tinyddpm.nn.mlp import MLP
from tinyddpm.nn.precision import MixedPrecision
from tinyddpm.ops import Operations

BF16 = np.dtype(ml_dtypes.bfloat16)
OPS = Operations(load_backend("numpy"), training=True)


class Bf16(Backend):
    """NumPy, said to keep activations in bfloat16."""

    def __init__(self) -> None:
        super().__init__(OPS.xp, precision="bf16")


class Spy:
    """A network that doubles its input, and tells what it was given."""

    parameters = MLP((2,), Widths(), 2, width=4, depth=1).parameters
    takes = Widths(vector=4)

    def __init__(self) -> None:
        self.given: list[Any] = []

    def forward(self, ops: Operations, w: Any, x: Any, t: Any, told: Any, noise: Any = None) -> tuple[Any, Any]:
        self.given += [x.dtype, w, told.vector.dtype, told.mask.dtype, noise]
        return 2 * x, "saved"

    def backward(self, saved: Any, dw: Any, dout: Any) -> tuple[Any, Told]:
        self.given += [saved, dw, dout.dtype]
        return 2 * dout, Told(vector=dout)


@pytest.mark.parametrize("outside", [np.float32, np.float64])
def test_only_the_network_sees_the_narrow_type(outside: Any) -> None:
    """Prediction and dx come back in the types of x and dout, each rounded once to 8 bits on its way in."""
    spy = Spy()
    mixed = MixedPrecision(spy, BF16)
    x = np.random.default_rng(0).normal(size=(3, 2)).astype(outside)
    told = Told(vector=x, mask=x > 0)
    out, saved = mixed.forward(OPS, {}, x, np.zeros(3, int), told, None)
    dx, _ = mixed.backward(saved, {}, x)
    for found in (out, dx):
        assert found.dtype == outside
        np.testing.assert_array_equal(found, 2 * x.astype(BF16).astype(outside))
    assert spy.given == [BF16, {}, BF16, bool, None, "saved", {}, BF16]
    assert mixed.parameters == spy.parameters


@pytest.mark.parametrize("name", SKETCHES)
def test_vectors_stay_as_they_are(name: str) -> None:
    """Of every network: vectors are views of the weights, and what has more dimensions is rounded."""
    layout = Layout(SKETCHES[name].build().parameters)
    buffer = np.random.default_rng(1).normal(size=layout.size).astype(np.float32)
    exact, mixed = layout.views(buffer, np).values(), Operations(Bf16()).weights(buffer, layout.shapes)
    for w, right in zip(mixed, exact, strict=True):
        if w.ndim == 1:
            np.testing.assert_array_equal(w, right)
            assert np.shares_memory(w, buffer)
        else:
            assert w.dtype == BF16
            np.testing.assert_array_equal(w, right.astype(BF16))
