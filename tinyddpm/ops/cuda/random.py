"""The random numbers of `tinyddpm.backend.random` drawn by kernels, and a training batch made with them in one."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyddpm.backend import Array, Backend, Purpose, Random
from tinyddpm.backend.random import WORD, Samples, in_range, sample_indices
from tinyddpm.ops.activation import Dropout
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.kernels import Kernels


class CupyRandom(Random):
    """The same numbers as those of `Random`, a launch each: bits bit for bit, normals to the last rounding.

    `step` may also be a (1,) int64 array on the device, and `samples` an (N,) int64 array there: what they hold is then
    not checked, nothing is moved, and a launch that is recorded draws for what they hold when it is launched again.
    """

    def __init__(self, backend: Backend, seed: int) -> None:
        super().__init__(backend.xp, seed, backend.device)
        self._kernels = Kernels(backend)

    def bits(
        self, purpose: Purpose, step: int | Array, samples: Samples | Array, shape: tuple[int, ...], layer: int = 0
    ) -> Array:
        """Return int64 words, uniform over [0, 2**32)."""
        words = self._empty((len(samples), *shape), self.xp.int64)
        return self._draw("philox_bits", words, purpose, step, samples, layer)

    def normal(
        self, purpose: Purpose, step: int | Array, samples: Samples | Array, shape: tuple[int, ...], layer: int = 0
    ) -> Array:
        """Return float32 standard normal numbers, none larger than 6.77 in magnitude."""
        eps = self._empty((len(samples), *shape), self.xp.float32)
        return self._draw("philox_normal", eps, purpose, step, samples, layer)

    def noised(
        self, data: Array, places: Array, samples: Samples | Array, step: int | Array, signal: Array, noise: Array,
        flip: bool,
    ) -> tuple[Array, Array, Array, Array]:  # fmt: skip
        """Return (x_0, t, eps, x_t) of a training step by one launch: the samples, their times, their noise, and both
        mixed, x_t = signal[t] x_0 + noise[t] eps (DDPM eq. 4). t is (N,) int64, the others are (N, ...) float32.

        Args:
            data: (M, H, W, C) uint8 images, taken to [-1, 1], or (M, D) float32 points.
            places: (N,) int64 rows of it, not checked.
            samples: (N,) the slots of the batch that are drawn for.
            step: the training step.
            signal: (T,) float32, √alpha_bar.
            noise: (T,) float32, √(1 − alpha_bar).
            flip: whether each image is mirrored, left to right, with probability ½.
        """
        shape, float32 = (len(samples), *data.shape[1:]), self.xp.float32
        x_0, eps, x_t = (self._empty(shape, float32) for _ in range(3))
        batch = x_0, self._empty(shape[:1], self.xp.int64), eps, x_t
        width, channels = data.shape[2:] if flip else (1, 1)
        size = prod(shape[1:])
        self._kernels.launch(
            "random", "noised_points" if data.dtype == float32 else "noised_images", "float32",
            geometry.elements(shape[0] * -(-size // 4)), data, places, *self._on_device(step, samples),
            *(np.uint32(purpose) for purpose in (Purpose.TIME, Purpose.NOISE, Purpose.FLIP)), *self._key(),
            signal, noise, *batch, flip, signal.shape[0], width, channels, np.int64(shape[0]), np.int64(size),
        )  # fmt: skip
        return batch

    def stream(
        self, purpose: Purpose, step: int | Array, samples: Samples | Array, layer: int = 0
    ) -> tuple[Array | np.uint32, ...]:
        """Return what a kernel draws a stream by: samples and step on the device, the stream's word, and the key."""
        word = np.uint32(purpose + 256 * in_range("layer", layer, 2**24))
        return *self._on_device(step, samples), word, *self._key()

    def _draw(
        self, kernel: str, out: Array, purpose: Purpose, step: int | Array, samples: Samples | Array, layer: int
    ) -> Array:
        """Fill `out`, (samples, ...), by one of the kernels that draw."""
        stream, size = self.stream(purpose, step, samples, layer), prod(out.shape[1:])
        if out.size:
            where = geometry.elements(out.shape[0] * -(-size // 4))
            self._kernels.launch(
                "random", kernel, "float32", where, out, *stream, np.int64(out.shape[0]), np.int64(size)
            )
        return out

    def _on_device(self, step: int | Array, samples: Samples | Array) -> tuple[Array, Array]:
        """Return (samples, step), int64 on the device; what is not there is checked and moved."""
        if not self._lies_there(samples):
            samples = self._device_array(sample_indices(samples))
        if not self._lies_there(step):
            step = self._device_array([in_range("step", step, WORD)])
        return samples, step

    def _lies_there(self, values: Any) -> bool:
        return isinstance(values, self.xp.ndarray) and values.dtype == self.xp.int64

    def _key(self) -> tuple[np.uint32, ...]:
        return tuple(np.uint32(word) for word in self.key)

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype=dtype, device=self.device)


def mask_arguments(dropout: Dropout) -> tuple[Any, ...] | None:
    """Return what a kernel draws dropout's mask by: the stream, the least word that is kept, and the share of those.

    None where the numbers are drawn elsewhere.
    """
    noise = dropout.noise
    if not isinstance(noise.random, CupyRandom):
        return None
    stream = noise.random.stream(Purpose.DROPOUT, noise.step, noise.samples, dropout.layer)
    return *stream, np.int64(round(dropout.rate * WORD)), 1.0 - dropout.rate


NO_MASK = (None, None, *(np.uint32(0),) * 3, np.int64(0), 1.0)
"""The same arguments for a kernel that drops nothing."""
