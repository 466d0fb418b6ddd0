"""The random numbers of `tinyddpm.backend.random` drawn by one kernel, and x_t made with them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyddpm.backend import Array, Backend, Purpose, Random
from tinyddpm.backend.random import Samples, in_range, sample_indices
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.kernels import Kernels

MOST_SAMPLES = 65535
"""What CUDA allows of blocks along a grid's second side."""


class CupyRandom(Random):
    """The same numbers as those of `Random`, a launch each: bits bit for bit, normals to the last rounding."""

    def __init__(self, backend: Backend, seed: int) -> None:
        super().__init__(backend.xp, seed, backend.device)
        self._kernels = Kernels(backend)

    def bits(self, purpose: Purpose, step: int, samples: Samples, shape: tuple[int, ...], layer: int = 0) -> Array:
        """Return int64 words, uniform over [0, 2**32)."""
        if not self._takes(samples, shape):
            return super().bits(purpose, step, samples, shape, layer)
        words = self._empty((len(samples), *shape), self.xp.int64)
        self._draw("philox_bits", (words,), purpose, step, samples, layer, prod(shape))
        return words

    def normal(self, purpose: Purpose, step: int, samples: Samples, shape: tuple[int, ...], layer: int = 0) -> Array:
        """Return float32 standard normal numbers, none larger than 6.77 in magnitude."""
        if not self._takes(samples, shape):
            return super().normal(purpose, step, samples, shape, layer)
        eps = self._empty((len(samples), *shape), self.xp.float32)
        self._draw("philox_normal", (eps,), purpose, step, samples, layer, prod(shape))
        return eps

    def q_sample(
        self, x_0: Array, t: Array, signal: Array, noise: Array, purpose: Purpose, step: int, samples: Samples
    ) -> tuple[Array, Array]:
        """Return x_t = signal[t] x_0 + noise[t] eps (DDPM eq. 4) and the eps ~ N(0, I) drawn for it, in one launch.

        Args:
            x_0: (N, ...) float32.
            t: (N,) int64 times.
            signal: (T,) float32, √alpha_bar.
            noise: (T,) float32, √(1 − alpha_bar).
            purpose, step, samples: the stream, as everywhere; at most 65,535 samples.
        """
        x_t, eps = self._empty(x_0.shape, self.xp.float32), self._empty(x_0.shape, self.xp.float32)
        arrays = (self.xp.ascontiguousarray(x_0), self.xp.ascontiguousarray(t), signal, noise, x_t, eps)
        self._draw("philox_q_sample", arrays, purpose, step, samples, 0, prod(x_0.shape[1:]))
        return x_t, eps

    def _draw(
        self, kernel: str, arrays: tuple[Array, ...], purpose: Purpose, step: int, samples: Samples, layer: int,
        size: int,
    ) -> None:  # fmt: skip
        """Launch one of the kernels that draw, with the stream after its own arrays."""
        indices = sample_indices(samples)
        # One small copy to the device: the step, then the samples.
        moved = self._device_array(np.concatenate([[in_range("step", step, 2**32)], indices]))
        stream = np.uint32(purpose + 256 * in_range("layer", layer, 2**24))
        self._kernels.launch(
            "random", kernel, "float32", geometry.counters(size, len(indices)),
            *arrays, moved[1:], moved[:1], stream, *(np.uint32(word) for word in self.key), np.int64(size),
        )  # fmt: skip

    def _takes(self, samples: Samples, shape: tuple[int, ...]) -> bool:
        return 0 < len(samples) <= MOST_SAMPLES and prod(shape) > 0

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype=dtype, device=self.device)
