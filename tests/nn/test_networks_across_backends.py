"""Whole networks on array-api-strict, Torch and (on a machine with a GPU) CuPy give NumPy's numbers."""

from __future__ import annotations

import pytest

from helpers.comparison import assert_close
from helpers.networks import SKETCHES, Setting, is_key_bias
from tinyddpm.backend import Backend


@pytest.mark.parametrize("name", SKETCHES)
def test_network_gives_what_numpy_gives(numpy_backend: Backend, other_backend: Backend, name: str) -> None:
    """Prediction, dx and the gradient of every path in float64, dropout masks drawn on the backend, within 1e-10."""
    setting = Setting(SKETCHES[name])
    out, dw, dx = setting.gradients(numpy_backend)
    out_other, dw_other, dx_other = setting.gradients(other_backend)
    assert_close(out_other, out, 1e-10, "prediction")
    assert_close(dx_other, dx, 1e-10, "dx")
    for path, expected in dw.items():
        assert_close(dw_other[path], expected, 1e-10, path, floor=1e-3 if is_key_bias(path) else 0.0)
