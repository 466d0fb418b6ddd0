"""Whole networks through CupyOperations and CupyRandom, their kernels run on the CPU, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.comparison import assert_close
from helpers.cuda_shim import ShimBackend
from helpers.networks import SKETCHES, Setting, is_key_bias
from helpers.runs import DIGITS
from tinyddpm.backend import load_backend
from tinyddpm.ops import Operations
from tinyddpm.training.assembly import make_trainer, open_data

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")


class SingleBackend(ShimBackend):
    """Takes what it is given in float64 as float32, so that kernels work on it."""

    def asarray(self, values: Any, dtype: Any = None) -> np.ndarray:
        array = super().asarray(values, dtype)
        return array.astype(np.float32) if array.dtype == np.float64 else array


@pytest.mark.parametrize("name", SKETCHES)
def test_network_gradients(shim: ShimBackend, name: str) -> None:
    """Prediction, dx and the gradient of every path within 1e-4 of its largest element, dropout drawn by kernel."""
    single = SingleBackend(shim.shared_memory)
    setting = Setting(SKETCHES[name])
    out, dw, dx = setting.gradients(NUMPY)
    out_ours, dw_ours, dx_ours = setting.gradients(single)
    assert {"silu_forward", "silu_backward"} & set(single.launched)
    for path, (ours, expected) in {"prediction": (out_ours, out), "dx": (dx_ours, dx)}.items():
        assert_close(ours, expected.astype(np.float32), 1e-4, path)
    for path, expected in dw.items():
        floor = 1e-1 if is_key_bias(path) else 0.0
        assert_close(dw_ours[path], expected.astype(np.float32), 1e-4, path, floor=floor)


def test_training_steps(shim: ShimBackend) -> None:
    """Three steps of a U-Net with attention and dropout: losses and gradient norms are NumPy's, to 1e-5."""
    settings = DIGITS.updated(
        {"network": {"channels": 4}, "training": {"batch_size": 2, "learning_rate": 1e-3, "warmup": 2}}
    )
    dataset = open_data(settings)
    ours, reference = (
        make_trainer(settings, shim, dataset),
        make_trainer(settings, NUMPY, dataset, Operations(NUMPY, True)),
    )
    for _ in range(3):
        a, b = ours.train_step(), reference.train_step()
        np.testing.assert_allclose([a.loss, a.gradient_norm], [b.loss, b.gradient_norm], rtol=1e-5)
    assert {"group_norm_backward", "softmax_backward", "vector_gradient", "doubled"} < set(shim.launched)
