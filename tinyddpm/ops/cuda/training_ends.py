"""Both ends of a training step by kernels: the noised batch by one launch, Adam with its average by three."""

from __future__ import annotations

from math import prod

import numpy as np

from tinyddpm.backend import Array, Purpose, Random
from tinyddpm.backend.random import Samples, Step
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.launching import Launching
from tinyddpm.ops.cuda.random import CupyRandom
from tinyddpm.ops.noising import Noised
from tinyddpm.ops.optimisation import Descent, Factor


class CudaTrainingEnds(Launching):
    """Noising and optimisation by kernels, where the reference makes many passes."""

    def noised(
        self,
        random: Random,
        step: Step,
        samples: Samples,
        data: Array,
        levels: tuple[Array, Array],
        places: Array = None,
        t: Array = None,
        flip: bool = False,
    ) -> Noised:
        """Return samples with times and noise, by one kernel unless `t` is given."""
        xp, float32 = self.xp, self.xp.float32
        if not isinstance(random, CupyRandom) or t is not None or data.dtype not in (xp.uint8, float32):
            return super().noised(random, step, samples, data, levels, places, t, flip)
        places = xp.arange(data.shape[0], dtype=xp.int64, device=self.backend.device) if places is None else places
        shape = (len(samples), *data.shape[1:])
        x_0, eps, x_t = (self._empty(shape, float32) for _ in range(3))
        batch = Noised(x_0, self._empty(shape[:1], xp.int64), eps, x_t)
        width, channels = data.shape[2:] if flip else (1, 1)
        size = prod(shape[1:])
        self._kernels.launch(
            "random", "noised_points" if data.dtype == float32 else "noised_images", "float32",
            geometry.elements(shape[0] * -(-size // 4)), data, places, *random.on_device(step, samples),
            *(np.uint32(purpose) for purpose in (Purpose.TIME, Purpose.NOISE, Purpose.FLIP)), *random.key_words(),
            *levels, *batch, flip, levels[0].shape[0], width, channels, np.int64(shape[0]), np.int64(size),
        )  # fmt: skip
        return batch

    def lengths(self, gradient: Array) -> Array:
        """Return the norms of the parts of the gradient that blocks of threads add up, (blocks,)."""
        if not self._takes(gradient) or gradient.dtype != self.xp.float32:
            return super().lengths(gradient)
        sums = geometry.partial_sums(gradient.size)
        partial = self._empty(sums.grid, self.xp.float32)
        self._launch("optimisation", "lengths", sums, gradient, partial, np.int64(gradient.size))
        return partial

    def step_factors(self, descent: Descent, step: Array, rate: Array, loss: Array, lengths: Array) -> Array:
        """Return the factors by one block of threads."""
        if lengths.dtype != self.xp.float32 or loss.dtype != self.xp.float32:
            return super().step_factors(descent, step, rate, loss, lengths)
        factors = self._empty((len(Factor),), lengths.dtype)
        settings = (descent.clip, descent.decay, descent.beta_1, descent.beta_2)
        self._launch(
            "optimisation", "step_factors", geometry.one_block(itemsize=8), lengths, loss, step, rate, factors,
            lengths.shape[0], *map(np.float64, settings),
        )  # fmt: skip
        return factors

    def adam(
        self, descent: Descent, factors: Array, gradient: Array, weights: Array, ema: Array, m: Array, v: Array
    ) -> None:
        """Apply Adam and the running average in place, by one kernel."""
        buffers = gradient, weights, ema, m, v
        if not self._takes(factors, *buffers) or gradient.dtype != self.xp.float32:
            super().adam(descent, factors, *buffers)
            return
        size = gradient.size
        where = geometry.elements(size)
        self._launch("optimisation", "adam_ema", where, gradient, factors, *buffers[1:], descent.eps, np.int64(size))

    def power_average(self, exponent: float, step: Array, factors: Array, weights: Array, average: Array) -> None:
        """Include the weights after a step in an average, in place, by one kernel."""
        if not self._takes(factors, weights, average) or weights.dtype != self.xp.float32:
            super().power_average(exponent, step, factors, weights, average)
            return
        self._launch(
            "optimisation", "power_average", geometry.elements(weights.size, shared=4), weights, factors, step, average,
            np.float64(exponent), np.int64(weights.size),
        )  # fmt: skip
