"""The beginning of a training step: samples with the noise of their times, lines 2 to 4 of DDPM's Algorithm 1."""

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
    """What is drawn of a batch. It has no gradient."""

    def x_0(
        self, random: Random, step: Step, samples: Samples, data: Array, places: Array = None, flip: bool = False
    ) -> Array:
        """Return samples without noise, float32: images in [−1, 1]. For the arguments see `noised`."""
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
        """Return samples with their noise, x_t = √alpha_bar_t x_0 + √(1 − alpha_bar_t) eps (DDPM eq. 4).

        Args:
            random: of the training's seed; step and samples as there.
            step: the training step.
            samples: (N,) the slots of the batch that are drawn for.
            data: (M, H, W, C) uint8 images, taken to [−1, 1], or float32 samples as they are.
            levels: √alpha_bar and √(1 − alpha_bar), (T,) float32 each.
            places: (N,) int64 rows of `data`, not checked; all rows in order if None.
            t: (N,) int64 times; drawn if None, each as likely as any other.
            flip: whether each image is mirrored, left to right, with probability ½.
        """
        xp, (signal, noise) = self.xp, levels
        x_0 = self.x_0(random, step, samples, data, places, flip)
        if t is None:
            t = random.integers(Purpose.TIME, step, samples, (), signal.shape[0])
        eps = random.normal(Purpose.NOISE, step, samples, tuple(x_0.shape[1:]))
        across = (-1, *(1,) * (x_0.ndim - 1))
        signal_t, noise_t = (xp.reshape(xp.take(level, t, axis=0), across) for level in (signal, noise))
        return Noised(x_0, t, eps, signal_t * x_0 + noise_t * eps)
