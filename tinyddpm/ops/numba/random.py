"""The random numbers of `tinyddpm.backend.random`, compiled: words are used as they are made, and not stored."""

from __future__ import annotations

from math import cos, log, pi, prod, sin, sqrt
from typing import Any

import numpy as np

from tinyddpm.backend import Array, Purpose, Random
from tinyddpm.backend.philox import MULTIPLIERS, ROUNDS, WEYL
from tinyddpm.backend.random import WORD, Samples, Step, checked_rate, in_range
from tinyddpm.backend.workers import spread
from tinyddpm.ops.cpu.blocks import NDArray
from tinyddpm.ops.numba.compiling import ahead, compiled

CHUNK = 256
"""Number of counters whose words are made together, by a vectorised loop."""

M_0, M_1, W_0, W_1 = map(np.uint64, (*MULTIPLIERS, *WEYL))
MASK, HIGH = np.uint64(WORD - 1), np.uint64(32)


class NumbaRandom(Random):
    """The numbers of `Random`, compiled: bits are equal, normals equal up to the last rounding."""

    def bits(self, purpose: Purpose, step: Step, samples: Samples, shape: tuple[int, ...], layer: int = 0) -> Array:
        """Return int64 words, uniform over [0, 2**32)."""
        return self._drawn(_bits, np.int64, purpose, step, samples, shape, layer)

    def normal(self, purpose: Purpose, step: Step, samples: Samples, shape: tuple[int, ...], layer: int = 0) -> Array:
        """Return float32 standard normal numbers, none larger than 6.77 in magnitude."""
        return self._drawn(_normal, np.float32, purpose, step, samples, shape, layer)

    def keep_mask(
        self,
        purpose: Purpose,
        step: Step,
        samples: Samples,
        shape: tuple[int, ...],
        rate: float,
        layer: int = 0,
    ) -> Array:
        """Return booleans, True with probability 1 - rate (to 2**-33), for rate in [0, 1]."""
        least = np.uint64(round(checked_rate(rate) * WORD))
        return self._drawn(_keep, np.bool_, purpose, step, samples, shape, layer, least)

    def _drawn(
        self, kernel: Any, dtype: Any, purpose: Purpose, step: Step, samples: Samples, shape: tuple[int, ...],
        layer: int, *options: Any,
    ) -> NDArray:  # fmt: skip
        """Return the array that a compiled kernel fills from the words of a stream, (samples, *shape)."""
        there, step_there = self.on_device(step, samples)
        stream = purpose + 256 * in_range("layer", layer, 2**24)
        counter = (int(step_there[0]), stream, *self.key)
        out = np.empty((len(there), prod(shape)), dtype)

        def draw(part: slice) -> None:
            kernel(out[part], there[part], *map(np.uint64, counter), *options)

        spread(draw, len(there))
        return out.reshape(len(there), *shape)


@compiled
def _words(words: NDArray, first: int, sample: int, step: Any, stream: Any, k_0: Any, k_1: Any) -> None:
    """Write the words of CHUNK counters from `first` on to `words`, (4, CHUNK) uint64, for one sample."""
    w_0, w_1, w_2, w_3 = words[0], words[1], words[2], words[3]
    for i in range(CHUNK):
        c_0, c_1, c_2, c_3 = np.uint64(first + i), np.uint64(sample), step, stream
        key_0, key_1 = k_0, k_1
        for _ in range(ROUNDS):
            p_0, p_1 = (c_0 & MASK) * M_0, (c_2 & MASK) * M_1
            c_0, c_1, c_2, c_3 = (p_1 >> HIGH) ^ c_1 ^ key_0, p_1, (p_0 >> HIGH) ^ c_3 ^ key_1, p_0
            key_0, key_1 = key_0 + W_0, key_1 + W_1
        w_0[i], w_1[i], w_2[i], w_3[i] = c_0 & MASK, c_1 & MASK, c_2 & MASK, c_3 & MASK


@ahead("i8[:, ::1], i8[::1], u8, u8, u8, u8")
@compiled
def _bits(out: NDArray, samples: NDArray, step: Any, stream: Any, k_0: Any, k_1: Any) -> None:
    """Write words to `out`, (n, size) int64."""
    n, size = out.shape
    words = np.empty((4, CHUNK), np.uint64)
    for i in range(n):
        row = out[i]
        for start in range(0, size, 4 * CHUNK):
            _words(words, start // 4, samples[i], step, stream, k_0, k_1)
            for j in range(min(4 * CHUNK, size - start)):
                row[start + j] = words[j & 3, j >> 2]


@ahead("b1[:, ::1], i8[::1], u8, u8, u8, u8, u8")
@compiled
def _keep(out: NDArray, samples: NDArray, step: Any, stream: Any, k_0: Any, k_1: Any, least: Any) -> None:
    """Write to `out`, (n, size) booleans, whether each word is at least `least`."""
    n, size = out.shape
    words = np.empty((4, CHUNK), np.uint64)
    for i in range(n):
        row = out[i]
        for start in range(0, size, 4 * CHUNK):
            _words(words, start // 4, samples[i], step, stream, k_0, k_1)
            for j in range(min(4 * CHUNK, size - start)):
                row[start + j] = words[j & 3, j >> 2] >= least


@ahead("f4[:, ::1], i8[::1], u8, u8, u8, u8")
@compiled
def _normal(out: NDArray, samples: NDArray, step: Any, stream: Any, k_0: Any, k_1: Any) -> None:
    """Write normal numbers to `out`, (n, size) float32, by Box and Muller's formula, as in `Random.normal`."""
    n, size = out.shape
    words = np.empty((4, CHUNK), np.uint64)
    for i in range(n):
        row = out[i]
        for start in range(0, size, 4 * CHUNK):
            _words(words, start // 4, samples[i], step, stream, k_0, k_1)
            for j in range(0, min(4 * CHUNK, size - start), 2):
                radius = sqrt(-2.0 * log((words[j & 3, j >> 2] + 0.5) / WORD))
                angle = words[(j & 3) + 1, j >> 2] * (2.0 * pi / WORD)
                row[start + j] = radius * cos(angle)
                if start + j + 1 < size:
                    row[start + j + 1] = radius * sin(angle)
