"""A smaller picture of the sample as a condition: enlarged and concatenated to x_t, with its level of noise.

The model then draws large images that shrink to the picture: super-resolution, and a stage of a cascade.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from array_api_compat import device

from tinyddpm.backend import Array, Purpose, Random
from tinyddpm.backend.random import Samples, Step
from tinyddpm.conditions.base import Asked, Given, HostArray, Known, Wish, refuse_others
from tinyddpm.errors import ConfigError
from tinyddpm.nn import Gradients, Parts, Told, Weights, Widths
from tinyddpm.nn.layers import Linear, Pass
from tinyddpm.ops import Operations, Saved
from tinyddpm.ops.images import bicubic, shrunk, to_model

PICTURE, LEVEL = "image", "level"
"""The columns: small pictures, (n, h, w, C) float32 in [−1, 1], and their levels of noise, (n,) float32 from 0 to 1."""

FREQUENCIES = 64
"""Number of sinusoids of the level, which is embedded like a time from 0 to 1000."""


class Image(Parts):
    """A condition on the sample shrunk and enlarged again to the size of x_t, as in SR3, with noise augmentation (CDM).

    A model that never saw noise trusts its picture to the last grey level, which is wrong for pictures of another model
    or of a camera. So in training a picture z is

        z = √(1 − level²) picture + level eps,   level uniform from 0 to `noise`

    and the vector gives the level, embedded like the time by sinusoids and a perceptron. The null is a grey picture of
    level 1, which contains no information.

    Args:
        sample_shape: (H, W, C) of the images.
        classes: unused.
        width: width of the vector.
        null: unused; the null needs no parameters.
        factor: side of the squares of the sample whose mean, rounded to 8 bits, is a pixel of the picture.
        noise: the highest level in training, in [0, 1).

    Raises:
        ConfigError: the samples are not images, or an option is out of range.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        classes: int,
        width: int,
        null: bool,
        *,
        factor: int = 2,
        noise: float = 0.2,
    ) -> None:
        _check(sample_shape, factor, noise)
        height, width_of_image, channels = sample_shape
        self.size, self.factor, self.noise = (height, width_of_image), factor, noise
        self.shape = (height // factor, width_of_image // factor, channels)
        self.gives = Widths(vector=width, image=channels)
        self.null: Mapping[str, HostArray] = {
            PICTURE: np.zeros(self.shape, np.float32),
            LEVEL: np.asarray(1.0, np.float32),
        }
        self.dense_1 = Linear("image/dense_1", FREQUENCIES, width)
        self.dense_2 = Linear("image/dense_2", width, width)

    def read(self, known: Known) -> Mapping[str, HostArray]:
        """Return `image`, the small pictures, and `level`, their level of noise, 0 if there is no such column.

        Raises:
            ConfigError: there are no pictures, or they have another size.
        """
        if PICTURE not in known.columns:
            raise ConfigError("there are no pictures to enlarge: give them to `tinyddpm edit enlarge`")
        pictures = np.asarray(known.columns[PICTURE], np.float32)
        self._check_size(pictures.shape)
        return {PICTURE: pictures, LEVEL: np.asarray(known.columns.get(LEVEL, np.zeros(len(pictures))), np.float32)}

    def observed(
        self, xp: Any, x_0: Array, random: Random | None = None, step: Step = 0, samples: Samples = ()
    ) -> Given:
        """Return the columns of `read` for samples x_0, (N, H, W, C): their small pictures, noisy with `random`."""
        grey_levels = xp.astype(xp.round((x_0 + 1.0) * 127.5), xp.int32)
        pictures = to_model(shrunk(grey_levels, self.factor))
        if random is None:
            return {PICTURE: pictures, LEVEL: xp.zeros((x_0.shape[0],), dtype=xp.float32, device=device(x_0))}
        level = self.noise * random.uniform(Purpose.AUGMENTATION, step, samples, ())
        return {PICTURE: self.augmented(xp, pictures, level, random, step, samples), LEVEL: level}

    def augmented(self, xp: Any, pictures: Array, level: Array, random: Random, step: Step, samples: Samples) -> Array:
        """Return pictures (N, h, w, C) with noise of level (N,): √(1 − level²) picture + level eps."""
        eps = random.normal(Purpose.AUGMENTATION, step, samples, self.shape, layer=1)
        level = xp.reshape(level, (-1, 1, 1, 1))
        return xp.sqrt(1.0 - level * level) * pictures + level * eps

    def asked(self, wish: Wish, shown: Known | None = None) -> Asked:
        """Return the images of the wish, or else the pictures of the samples shown.

        Raises:
            ConfigError: the wish has another part, or there are neither.
        """
        refuse_others(wish, "images")
        if wish.images is not None:
            self._check_size(wish.images.shape)
            return Asked(None, {PICTURE: to_model(wish.images)})
        if shown is not None and PICTURE in shown.columns:
            return Asked(None, {name: shown.columns[name] for name in (PICTURE, LEVEL) if name in shown.columns})
        raise ConfigError("the model enlarges pictures: give it some by `tinyddpm edit enlarge`")

    def words(self, known: Known) -> None:
        """Return None: there are no texts."""

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        """Return a vector, and an image (N, H, W, C): the picture enlarged by bicubic interpolation."""
        run, dtype = Pass(ops, w), w[self.dense_1.paths[0]].dtype
        h = ops.sinusoidal(1000 * given[LEVEL], FREQUENCIES, dtype)
        h = self.dense_1.forward(run, h)
        h = run.do(ops.silu, h)
        vector = self.dense_2.forward(run, h)
        image = bicubic(ops.xp.astype(given[PICTURE], dtype, copy=False), *self.size)
        return Told(vector=vector, image=image), run if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        """Add the gradients of the parameters to `dw`; a picture has none."""
        run: Pass = saved
        run.dw = dw
        dh = self.dense_2.backward(run, dtold.vector)
        dh = run.undo(run.ops.silu_backward, dh)
        self.dense_1.backward(run, dh)

    def _check_size(self, shape: tuple[int, ...]) -> None:
        if shape[1:] != self.shape:
            found, wanted = ("x".join(map(str, size)) for size in (shape[1:], self.shape))
            raise ConfigError(f"the pictures are {found}, and the model enlarges {wanted}: give others, or --fit")


def _check(sample_shape: tuple[int, ...], factor: int, noise: float) -> None:
    """Raise ConfigError for samples or options of which no condition can be built."""
    if len(sample_shape) != 3:
        raise ConfigError("condition 'image' is for images, and the samples are points: choose another condition")
    height, width, _ = sample_shape
    if factor < 1 or height % factor or width % factor:
        raise ConfigError(
            f"condition.factor is {factor}: it must divide the height and the width, {height} and {width}"
        )
    if not 0 <= noise < 1:
        raise ConfigError(f"condition.noise is {noise}: it must lie in [0, 1)")
