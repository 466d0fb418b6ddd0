"""Operations on a stand-in of cuDNN, against the reference."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes  # noqa: F401
import numpy as np
import pytest

from helpers.cuda_shim import COMPILER, ShimBackend
from helpers.cudnn_stand_in import Frontend, StandInCard
from tinyddpm.backend import load_backend
from tinyddpm.ops import Operations
from tinyddpm.ops.cuda import cudnn
from tinyddpm.ops.cuda.cudnn import (
    CudnnConvolutions,
    Planner,
)

REFERENCE = Operations(load_backend("numpy"), training=True)

SHAPES = [((2, 6, 5, 3), (3, 3, 3, 4), 1), ((3, 7, 4, 5), (3, 3, 5, 2), 2), ((2, 3, 4, 6), (1, 1, 6, 3), 1)]


class Bench:
    """Operations on a stand-in of cuDNN with some plans, as a fresh process has them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *plans: str, precision: str = "fp32") -> None:
        if COMPILER is None:
            pytest.skip("there is no C++ compiler (g++ or clang++) to run the kernels with")
        self.backend = ShimBackend(precision=precision)
        self.backend.device = "cpu"
        self.frontend = Frontend(*plans)
        self.card = StandInCard(self.frontend)
        self.planner = made = Planner(self.frontend, self.card, self.backend)
        monkeypatch.setattr(cudnn, "planner", lambda backend: made)
        self.ops = CudnnConvolutions(self.backend, training=True)
        self.place: Callable[[np.ndarray], np.ndarray] = np.asarray
        self.residual = False

    def compare(self, x: tuple[int, ...], w: tuple[int, ...], stride: int, rtol: float = 1e-5) -> None:
        """Check y and the gradients against the reference in float64, within rtol of the largest element."""
        rng, half = np.random.default_rng(3), self.backend.precision == "bf16"
        dtype = np.dtype("bfloat16" if half else "float32")
        x_, w_ = (self.place(rng.normal(size=shape).astype(dtype)) for shape in (x, w))
        b = self.place(rng.normal(size=w[3]).astype(np.float32))
        expected, kept = REFERENCE.conv2d(x_.astype(float), w_.astype(float), b.astype(float), stride)
        dy, added = (self.place(a) for a in rng.normal(size=(2, *expected.shape)).astype(dtype))
        y, saved = self.ops.conv2d(x_, w_, b, stride, added if self.residual else None)
        if self.residual:
            expected = expected + added.astype(float)
        found = (y, *self.ops.conv2d_backward(saved, dy))
        right = (expected, *REFERENCE.conv2d_backward(kept, dy.astype(float)))
        assert [a.dtype for a in found] == [dtype, dtype, np.float32, np.float32]
        for a, b in zip(found, right, strict=True):
            np.testing.assert_allclose(a.astype(float), b, rtol=0, atol=rtol * np.abs(b).max())

    def names(self) -> list[str]:
        return [name for name, _ in self.frontend.run]
