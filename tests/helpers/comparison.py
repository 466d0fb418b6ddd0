"""Comparison of arrays relative to their size."""

from __future__ import annotations

from typing import Any

import numpy as np

HostArray = np.ndarray[Any, Any]


def assert_close(actual: Any, expected: Any, rtol: float, name: str, floor: float = 0.0) -> None:
    """Check that no element is off by more than `rtol` of the largest expected one, or of `floor` if that is larger.

    Elements are sums whose terms cancel: the rounding error of an element is proportional to its terms, not to itself.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name} has shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{name} has type {actual.dtype}, expected {expected.dtype}"
    size = max(float(np.max(np.abs(expected), initial=0.0)), floor)
    error = float(np.max(np.abs(actual - expected), initial=0.0))
    assert error <= rtol * size, f"{name} is off by {error:.2g}, {error / size if size else np.inf:.2g} of the largest"


def frozen(array: HostArray) -> HostArray:
    """Return a read-only view of `array`, with its strides."""
    view = array.view()
    view.flags.writeable = False
    return view
