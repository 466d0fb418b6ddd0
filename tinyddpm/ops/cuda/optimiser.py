"""The end of a training step on the GPU: the gradient's norm, clipping, Adam and the running average, all in place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyddpm.backend import Array, Backend
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.kernels import Kernels

FACTORS = 8
"""Numbers that the kernels share: what `optimiser.cu` calls Factor."""

LOSS, NORM = 6, 7
"""Where, among them, the caller finds the loss and the gradient's norm."""


@dataclass(frozen=True)
class OptimiserSettings:
    """What does not change during a training: see `tinyddpm.training.optimiser` for the formulas."""

    learning_rate: float
    warmup: int
    clip: float
    decay: float
    beta_1: float
    beta_2: float
    eps: float


class CudaOptimiser:
    """Three launches that do the whole end of a step without asking the device for anything.

    The step number lies in device memory, so the launches can be recorded in a graph.

    Args:
        backend: whose GPU.
        settings: of the training.
        size: of the flat buffers.
    """

    def __init__(self, backend: Backend, settings: OptimiserSettings, size: int) -> None:
        self._kernels, self._settings, self._size = Kernels(backend), settings, size
        self._sums = geometry.partial_sums(size)
        xp, float32 = backend.xp, backend.xp.float32
        self._partial = xp.empty(self._sums.grid, dtype=float32, device=backend.device)
        self.factors: Array = xp.empty((FACTORS,), dtype=float32, device=backend.device)

    def update(
        self, gradient: Array, loss: Array, step: Array, weights: Array, m: Array, v: Array, ema: Array
    ) -> Array:
        """Do step number `step` in place, unless loss or gradient is not finite.

        Args:
            gradient: the flat float32 buffer, not clipped; left as it is.
            loss: one float32.
            step: (1,) int64, 0-based.
            weights, m, v, ema: flat float32 buffers.

        Returns:
            `factors`, (8,) float32 on the device: see LOSS and NORM.
        """
        settings, size = self._settings, np.int64(self._size)
        betas = (np.float64(settings.beta_1), np.float64(settings.beta_2))
        self._launch("sum_of_squares", self._sums, gradient, self._partial, size)
        self._launch(
            "step_factors", geometry.one_block(itemsize=8), self._partial, loss, step, self.factors,
            self._partial.shape[0], np.float64(settings.learning_rate), np.float64(settings.clip),
            np.float64(settings.decay), *betas, settings.warmup,
        )  # fmt: skip
        self._launch(
            "adam_ema", geometry.elements(self._size), gradient, self.factors, weights, m, v, ema, *betas,
            settings.eps, size,
        )  # fmt: skip
        return self.factors

    def _launch(self, kernel: str, where: geometry.Geometry, *arguments: Array) -> None:
        self._kernels.launch("optimiser", kernel, "float32", where, *arguments)
