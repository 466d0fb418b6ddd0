"""Random numbers without state: each is a function of (seed, purpose, layer, step, sample, element).

So a sample is the same whatever batch it is drawn in, a resumed run needs no saved generator, and every backend draws
the same numbers: integers bit for bit, floats to the last rounding. Underneath is Philox 4x32-10, whose counter holds

    word 0: element // 4        word 1: sample        word 2: step        word 3: purpose + layer * 256

and whose key is the seed, low word first. One counter gives the words of four elements, counted in C order.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np

from tinyddpm.backend.array import Array
from tinyddpm.backend.philox import philox_4x32, split
from tinyddpm.errors import ConfigError

WORD = 2**32

Step: TypeAlias = "int | Array"
"""The number of a step, on the host or as a (1,) int64 array on the device."""

Samples: TypeAlias = "Sequence[int] | np.ndarray[Any, Any] | Array"
"""Indices of samples, on the host or as an (N,) int64 array on the device, which drawing does not wait for."""


class Purpose(IntEnum):
    """The use of a random number. The values are part of every stream: changing one changes the numbers of a seed."""

    INIT = 0
    """The network's weights before training; the sample is a checksum of the parameter's path."""
    ORDER = 1
    """The order of the training samples; the step is the epoch."""
    TIME = 2
    """The diffusion time t of a training sample."""
    NOISE = 3
    """The noise eps of a training sample."""
    DROPOUT = 4
    """Which activations are kept; one layer for each dropout of the network."""
    FLIP = 5
    """Whether a training image is mirrored."""
    VALIDATION_TIME = 6
    """The diffusion time of a held-out sample, the same at every validation."""
    VALIDATION_NOISE = 7
    """The noise of a held-out sample, the same at every validation."""
    SAMPLE_START = 8
    """The noise x_T that sampling starts from."""
    SAMPLE_STEP = 9
    """The noise that a sampler adds at each step; the step is t."""
    DATA = 11
    """The points of a random data set."""
    SPLIT = 13
    """Which samples of a data set are held out."""
    BOUND_NOISE = 14
    """The noise for estimates of the variational bound; the step is t, the layer the draw."""
    BOUND_TIME = 15
    """The times at which a bound is estimated, if not at all; the step is the stratum."""
    FLOW_NOISE = 16
    """The place of a pixel in its bin, and the probes of a trace, for the likelihood by the probability flow."""
    CONDITION = 18
    """Whether a training sample's condition is its null."""
    AUGMENTATION = 19
    """The noise added to a small picture: layer 0 draws its level, in training, and layer 1 the noise."""
    TRANSFORM = 20
    """The transforms of a training sample; the layer is a number for the transform and its draw."""
    BALANCE = 21
    """The order of training samples when classes come equally often: layer 0 orders the classes, with the round as the
    sample, and layer 1 the samples within a class, with its epoch as the step."""


class Random:
    """The random numbers of one seed on one device.

    The methods share their arguments: `purpose`, `step` and `layer` name the stream; `samples` are the indices of the
    samples to draw for, a sequence or 1-D array on the host; `shape` is the shape of one sample. They return arrays of
    shape `(len(samples), *shape)`, and all raise ConfigError for a step or sample outside [0, 2**32) or a layer outside
    [0, 2**24). After 2**34 elements of a sample the numbers repeat.

    `step` may also be a (1,) int64 array on the device, and `samples` an (N,) int64 array there. Their values are then
    not checked and nothing is moved; a recorded draw uses the values that they have when it is replayed.

    Args:
        xp: the array API namespace to compute in.
        seed: the key of all streams, in [0, 2**64).
        device: the namespace's device to draw on.
    """

    def __init__(self, xp: Any, seed: int, device: Any = None) -> None:
        self.xp = xp
        self.device = device
        self.key = split(in_range("seed", seed, WORD**2))

    def bits(self, purpose: Purpose, step: Step, samples: Samples, shape: tuple[int, ...], layer: int = 0) -> Array:
        """Return int64 words, uniform over [0, 2**32)."""
        return self._interleave(self._words(purpose, step, samples, shape, layer), shape)

    def normal(self, purpose: Purpose, step: Step, samples: Samples, shape: tuple[int, ...], layer: int = 0) -> Array:
        """Return float32 standard normal numbers, none larger than 6.77 in magnitude.

        Box and Muller, "A note on the generation of random normal deviates" (1958): for u, v uniform over (0, 1),

            z_0 = √(−2 ln u) cos(2π v),   z_1 = √(−2 ln u) sin(2π v)

        are independent and normal. From words a, b: u = (a + 1/2) / 2**32, which is never 0, and v = b / 2**32, so that
        |z| ≤ √(66 ln 2) = 6.764, which a true normal exceeds once in 7e10. Computed in float64 and rounded once at
        the end, so that backends whose logarithms and cosines differ in the last place give the same float32.
        """
        xp = self.xp
        a, b, c, d = (
            xp.astype(word, xp.float64, copy=False) for word in self._words(purpose, step, samples, shape, layer)
        )
        pairs = []
        for radius_word, angle_word in ((a, b), (c, d)):
            radius = xp.sqrt(-2.0 * xp.log((radius_word + 0.5) / WORD))
            angle = angle_word * (2.0 * math.pi / WORD)
            pairs += [radius * xp.cos(angle), radius * xp.sin(angle)]
        return self._interleave([xp.astype(z, xp.float32) for z in pairs], shape)

    def uniform(self, purpose: Purpose, step: Step, samples: Samples, shape: tuple[int, ...], layer: int = 0) -> Array:
        """Return float32 numbers, uniform over the 2**24 multiples of 2**-24 in [0, 1)."""
        bits = self.bits(purpose, step, samples, shape, layer)
        return self.xp.astype(bits >> 8, self.xp.float32) * 2.0**-24

    def integers(
        self,
        purpose: Purpose,
        step: Step,
        samples: Samples,
        shape: tuple[int, ...],
        high: int,
        layer: int = 0,
    ) -> Array:
        """Return int64 numbers in [0, high), for high in [1, 2**31].

        Multiply and shift (Lemire, "Fast random integer generation in an interval", 2019) without his rejection:
        each number's probability differs from 1 / high by less than 2**-32.
        """
        if not 1 <= high <= 2**31:
            raise ConfigError(f"high {high} is not in [1, 2**31]: the numbers drawn are below it")
        return (self.bits(purpose, step, samples, shape, layer) * high) >> 32

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
        return self.bits(purpose, step, samples, shape, layer) >= round(checked_rate(rate) * WORD)

    def permutation(self, purpose: Purpose, step: int, n: int) -> Array:
        """Return the numbers 0 to n - 1 in random order, int64, shape (n,).

        It is the order of n random 64-bit keys. Two are equal with probability below n**2 / 2**65, and stay in order.
        """
        bits = self.bits(purpose, step, [0], (in_range("n", n, WORD), 2))
        return self.xp.argsort((bits[0, :, 0] << 32) | bits[0, :, 1], stable=True)

    def _words(
        self, purpose: Purpose, step: Step, samples: Samples, shape: tuple[int, ...], layer: int
    ) -> tuple[Array, Array, Array, Array]:
        """Return the four words of each counter, each int64 of shape (samples, counters)."""
        blocks = -(-math.prod(shape) // 4)
        element = self.xp.arange(blocks, dtype=self.xp.int64, device=self.device)[None, :]
        sample, step_word = self.on_device(step, samples)
        stream_word = self._device_array([[purpose + 256 * in_range("layer", layer, 2**24)]])
        return philox_4x32((element, sample[:, None], step_word[:, None], stream_word), self.key)

    def on_device(self, step: Step, samples: Samples) -> tuple[Array, Array]:
        """Return samples, (N,), and step, (1,), as int64 on the device; those on the host are checked and moved."""
        if isinstance(samples, Sequence) or type(samples) is np.ndarray:
            samples = self._device_array(sample_indices(samples))
        if getattr(step, "ndim", 0) != 1:
            # Filled on the device: a sampler's step then copies nothing from the host.
            step = self.xp.full((1,), in_range("step", step, WORD), dtype=self.xp.int64, device=self.device)
        return samples, step

    def _device_array(self, values: Any) -> Array:
        return self.xp.asarray(values, dtype=self.xp.int64, device=self.device)

    def _interleave(self, words: Sequence[Array], shape: tuple[int, ...]) -> Array:
        """Return (samples, *shape) from four arrays (samples, counters), each with every fourth element."""
        samples, blocks = words[0].shape
        elements = self.xp.reshape(self.xp.stack(words, axis=-1), (samples, 4 * blocks))
        return self.xp.reshape(elements[:, : math.prod(shape)], (samples, *shape))


def in_range(name: str, value: int, end: int) -> int:
    """Return `value` as an int, or raise ConfigError if it is not in [0, end)."""
    value = operator.index(value)
    if not 0 <= value < end:
        raise ConfigError(f"{name} {value} is not in [0, 2**{end.bit_length() - 1})")
    return value


def checked_rate(rate: float) -> float:
    """Return `rate`, or raise ConfigError if it is not in [0, 1]."""
    if not 0.0 <= rate <= 1.0:
        raise ConfigError(f"rate {rate} is not in [0, 1]: it is the probability to drop")
    return rate


def sample_indices(samples: Samples) -> np.ndarray[Any, Any]:
    """Return `samples` as int64 (n,), or raise ConfigError if they are not indices in [0, 2**32)."""
    indices = np.asarray(samples)
    if indices.size == 0:
        return np.zeros(0, dtype=np.int64)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ConfigError(f"samples of shape {indices.shape} and type {indices.dtype} are no list of indices")
    for extreme in (indices.min(), indices.max()):
        in_range("sample", extreme, WORD)
    return indices.astype(np.int64)
