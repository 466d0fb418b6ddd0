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
"""A number, or where it lies on the device, (1,) int64."""

Samples: TypeAlias = "Sequence[int] | np.ndarray[Any, Any] | Array"
"""Indices of samples, on the host, or (N,) int64 on the device: drawing must not wait for it."""


class Purpose(IntEnum):
    """What a random number is for. The values are part of every stream: changing one changes what a seed gives."""

    INIT = 0
    """The network's weights before training; the sample tells the parameter."""
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
    """The points of a data set that is itself random."""
    SPLIT = 13
    """Which samples of a data set are held out."""
    BOUND_NOISE = 14
    """The noise that the variational bound is estimated with; the step is t, the layer the draw."""
    BOUND_TIME = 15
    """Which times a bound is estimated at, where it is not all; the step is the stratum."""
    FLOW_NOISE = 16
    """Where in its bin a pixel lies, and the probes of a trace, for the likelihood by the probability flow."""
    CONDITION = 18
    """Whether a training sample's condition is its null."""
    AUGMENTATION = 19
    """The noise put on a picture that is to be enlarged: layer 0 is how much, in training, and layer 1 is the noise."""
    TRANSFORM = 20
    """What is done to a training sample; the layer tells the transform, and which of its draws."""
    BALANCE = 21
    """The order of training samples where classes come equally often: layer 0 is that of the classes, the sample being
    the round, and layer 1 that within a class, the step being its epoch."""


class Random:
    """The random numbers of one seed on one device.

    The methods share their arguments: `purpose`, `step` and `layer` name the stream; `samples` are the indices of the
    samples to draw for, a sequence or 1-D array on the host; `shape` is the shape of one sample. They return arrays of
    shape `(len(samples), *shape)`, and all raise ConfigError for a step or sample outside [0, 2**32) or a layer outside
    [0, 2**24). A sample holds at most 2**34 elements before they repeat.

    `step` may also be a (1,) int64 array on the device, and `samples` an (N,) int64 array there: what they hold is then
    not checked, nothing is moved, and what is recorded draws for what they hold when it is done again.

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

            z_0 = sqrt(-2 ln u) cos(2 pi v),  z_1 = sqrt(-2 ln u) sin(2 pi v)

        are independent and normal. From words a, b: u = (a + 1/2) / 2**32, which is never 0, and v = b / 2**32, so that
        |z| <= sqrt(66 ln 2) = 6.764, which a true normal exceeds once in 7e10. Computed in float64 and rounded once at
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

        The order of n random 64-bit keys. Two tie with probability below n**2 / 2**65, and then keep their order.
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
        """Return (samples, step), int64 on the device, (N,) and (1,); what is not there is checked and moved."""
        if isinstance(samples, Sequence) or type(samples) is np.ndarray:
            samples = self._device_array(sample_indices(samples))
        if getattr(step, "ndim", 0) != 1:
            # Filled, not moved: a step of a sampler copies nothing from the host.
            step = self.xp.full((1,), in_range("step", step, WORD), dtype=self.xp.int64, device=self.device)
        return samples, step

    def _device_array(self, values: Any) -> Array:
        return self.xp.asarray(values, dtype=self.xp.int64, device=self.device)

    def _interleave(self, words: Sequence[Array], shape: tuple[int, ...]) -> Array:
        """Return (samples, *shape) from arrays (samples, counters) that hold every fourth element."""
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
    """Return `samples` as int64 (n,), or raise ConfigError if they are no indices in [0, 2**32)."""
    indices = np.asarray(samples)
    if indices.size == 0:
        return np.zeros(0, dtype=np.int64)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ConfigError(f"samples of shape {indices.shape} and type {indices.dtype} are no list of indices")
    for extreme in (indices.min(), indices.max()):
        in_range("sample", extreme, WORD)
    return indices.astype(np.int64)
