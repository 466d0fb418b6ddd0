"""The beginning of a training step, lines 2 to 4 of DDPM's Algorithm 1: draw x_0, t and eps, and compute x_t."""

from __future__ import annotations

from typing import NamedTuple

from tinyddpm.backend import Array, Purpose, Random
from tinyddpm.backend.random import Samples, Step
from tinyddpm.ops.base import Family
from tinyddpm.ops.images import flip_horizontally, to_model


class Noised(NamedTuple):
    """Samples and their noise: x_t = √alpha_bar_t x_0 + √(1 − alpha_bar_t) eps.

    Attributes:
        x_0: (N, ...) float32.
        t: (N,) int64.
        eps: (N, ...) float32.
        x_t: (N, ...) float32.
    """

    x_0: Array
    t: Array
    eps: Array
    x_t: Array


class Noising(Family):
    """Drawing a batch with its times and noise. Parameters take no part, so there is no backward."""

    def x_0(
        self, random: Random, step: Step, samples: Samples, data: Array, places: Array = None, flip: bool = False
    ) -> Array:
        """Return samples x_0 without noise, (N, ...) float32, images in [−1, 1]. Arguments are those of `noised`."""
        rows = data if places is None else self.xp.take(data, places, axis=0)
        x_0 = to_model(rows) if rows.dtype == self.xp.uint8 else rows
        if flip:
            x_0 = flip_horizontally(x_0, random.uniform(Purpose.FLIP, step, samples, ()) < 0.5)
        return x_0

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
        """Return samples with times and noise, and x_t = √alpha_bar_t x_0 + √(1 − alpha_bar_t) eps (DDPM eq. 4).

        Args:
            random: random numbers of the training's seed.
            step: number of the training step.
            samples: (N,) numbers of the samples in the whole batch, by which random numbers are drawn.
            data: (M, H, W, C) uint8 images, mapped to [−1, 1], or float32 samples, (M, ...), used unchanged.
            levels: √alpha_bar and √(1 − alpha_bar), (T,) float32 each.
            places: (N,) int64 indices of rows of `data`, not checked; None for all rows in order.
            t: (N,) int64 times; None to draw them uniformly from 0, …, T − 1.
            flip: whether to mirror each image, left to right, with probability ½.
        """
        xp, (signal, noise) = self.xp, levels
        x_0 = self.x_0(random, step, samples, data, places, flip)
        if t is None:
            t = random.integers(Purpose.TIME, step, samples, (), signal.shape[0])
        eps = random.normal(Purpose.NOISE, step, samples, tuple(x_0.shape[1:]))
        across = (-1, *(1,) * (x_0.ndim - 1))
        signal_t, noise_t = (xp.reshape(xp.take(level, t, axis=0), across) for level in (signal, noise))
        return Noised(x_0, t, eps, signal_t * x_0 + noise_t * eps)
