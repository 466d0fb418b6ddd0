"""The random numbers of `tinyddpm.backend.random`, drawn by kernels."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyddpm.backend import Array, Backend, Purpose, Random
from tinyddpm.backend.random import WORD, Samples, Step, in_range
from tinyddpm.ops.activation import Dropout
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.kernels import Kernels


class CupyRandom(Random):
    """The numbers of `Random`, drawn by one launch: bits are equal, normals equal up to the last rounding."""

    def __init__(self, backend: Backend, seed: int) -> None:
        super().__init__(backend.xp, seed, backend.device)
        self._kernels = Kernels(backend)

    def bits(self, purpose: Purpose, step: Step, samples: Samples, shape: tuple[int, ...], layer: int = 0) -> Array:
        """Return int64 words, uniform over [0, 2**32)."""
        words = self._empty((len(samples), *shape), self.xp.int64)
        return self._draw("philox_bits", words, purpose, step, samples, layer)

    def normal(self, purpose: Purpose, step: Step, samples: Samples, shape: tuple[int, ...], layer: int = 0) -> Array:
        """Return float32 standard normal numbers, none larger than 6.77 in magnitude."""
        eps = self._empty((len(samples), *shape), self.xp.float32)
        return self._draw("philox_normal", eps, purpose, step, samples, layer)

    def stream(self, purpose: Purpose, step: Step, samples: Samples, layer: int = 0) -> tuple[Array | np.uint32, ...]:
        """Return a kernel's arguments for a stream: samples and step on the device, the stream's word, and the key."""
        word = np.uint32(purpose + 256 * in_range("layer", layer, 2**24))
        return *self.on_device(step, samples), word, *self.key_words()

    def _draw(self, kernel: str, out: Array, purpose: Purpose, step: Step, samples: Samples, layer: int) -> Array:
        """Fill `out`, (samples, ...), by the named kernel, and return it."""
        stream, size = self.stream(purpose, step, samples, layer), prod(out.shape[1:])
        if out.size:
            where = geometry.elements(out.shape[0] * -(-size // 4))
            self._kernels.launch(
                "random", kernel, "float32", where, out, *stream, np.int64(out.shape[0]), np.int64(size)
            )
        return out

    def key_words(self) -> tuple[np.uint32, ...]:
        """Return the key as arguments of kernels: two uint32."""
        return tuple(np.uint32(word) for word in self.key)

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype=dtype, device=self.device)


def mask_arguments(dropout: Dropout) -> tuple[Any, ...] | None:
    """Return a kernel's arguments for dropout's mask: the stream, the least word of kept elements, and 1 − rate.

    None if the random numbers are not drawn by kernels.
    """
    noise = dropout.noise
    if not isinstance(noise.random, CupyRandom):
        return None
    stream = noise.random.stream(Purpose.DROPOUT, noise.step, noise.samples, dropout.layer)
    return *stream, np.int64(round(dropout.rate * WORD)), 1.0 - dropout.rate


NO_MASK = (None, None, *(np.uint32(0),) * 3, np.int64(0), 1.0)
"""The arguments in place of `mask_arguments` for a kernel that drops nothing."""
