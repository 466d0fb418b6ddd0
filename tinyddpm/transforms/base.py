"""The protocol of transforms, their random numbers, and a sequence of transforms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tinyddpm import registry
from tinyddpm.backend import Array, Purpose, Random
from tinyddpm.backend.random import Samples, Step
from tinyddpm.errors import ConfigError

DRAWS = 256
"""Number of streams of random numbers of each transform."""

EDM_P = 0.12
"""Probability of each transform in EDM's training on CIFAR-10 (2206.00364, appendix F.2)."""


class Chance:
    """The random numbers of one transform in one training step, on the device.

    Each number is a function of the seed, the step, the sample, the transform's place and `draw`, which numbers a
    transform's own streams from 0 to 255. So a sample's numbers do not depend on how the batch is divided.

    Args:
        random: random numbers of the training's seed.
        step: the training step.
        samples: (N,) the slots of the batch.
        place: the position of the transform in the run's sequence of transforms.
    """

    def __init__(self, random: Random, step: Step, samples: Samples, place: int) -> None:
        self.xp = random.xp
        self._random, self._step, self._samples, self._first = random, step, samples, place * DRAWS

    def happens(self, draw: int, p: float) -> Array:
        """Return booleans (N,), True with probability p (to 2⁻²⁴)."""
        return self.uniform(draw) < p

    def uniform(self, draw: int, *shape: int) -> Array:
        """Return float32 (N, *shape), uniform over [0, 1)."""
        return self._random.uniform(Purpose.TRANSFORM, self._step, self._samples, shape, self._first + draw)

    def normal(self, draw: int, *shape: int) -> Array:
        """Return float32 (N, *shape), standard normal."""
        return self._random.normal(Purpose.TRANSFORM, self._step, self._samples, shape, self._first + draw)

    def integers(self, draw: int, high: int, *shape: int) -> Array:
        """Return int64 (N, *shape), uniform over [0, high)."""
        return self._random.integers(Purpose.TRANSFORM, self._step, self._samples, shape, high, self._first + draw)


class Transform(Protocol):
    """A random change of training samples before they are noised.

    An entry of group `tinyddpm.transforms` is a callable `(sample_shape, **options) -> Transform`:

    - sample_shape: (H, W, C) of one image, or (D,) of one point;
    - options: keyword-only, all with defaults; ConfigError for a bad one, before anything is computed.

    A transform uses the array API standard alone and never reads values back from the device, as a device may record it
    with the training step.

    Attributes:
        numbers: k, how many numbers describe what was done to a sample.
    """

    numbers: int

    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        """Return the transformed samples, and numbers that describe what was done to each.

        Args:
            chance: the random numbers.
            x_0: (N, *sample_shape) float32, images in [−1, 1].

        Returns:
            Samples of the same shape, type and range, and (N, k) float32 numbers of about unit size; those of an
            unchanged sample are all zero.
        """
        ...


class Transforms:
    """A sequence of transforms, which may be empty.

    Args:
        chosen: the options of each transform, by its registered name, in the order of application.
        sample_shape: the shape of one sample.

    Attributes:
        numbers: the sum of the transforms' `numbers`.

    Raises:
        RegistryError: a transform is not installed, or broken.
        ConfigError: an option is wrong.
    """

    def __init__(self, chosen: Mapping[str, Mapping[str, Any]], sample_shape: tuple[int, ...]) -> None:
        self._each: list[Transform] = [
            registry.build("transforms", name, (sample_shape,), options) for name, options in chosen.items()
        ]
        self.numbers = sum(transform.numbers for transform in self._each)

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._each)

    def __call__(self, random: Random, step: Step, samples: Samples, x_0: Array) -> tuple[Array, Array]:
        """Return the transformed samples and what was done to each, (N, numbers). For the arguments see `Chance`."""
        said = []
        samples, step = random.on_device(step, samples)  # once, so that no draw waits for an upload
        for place, transform in enumerate(self._each):
            x_0, told = transform(Chance(random, step, samples, place), x_0)
            said.append(told)
        return x_0, random.xp.concat(said, axis=1)


def check_image(name: str, sample_shape: tuple[int, ...]) -> None:
    """Raise a ConfigError if the transform called `name` is applied to points and not to images."""
    if len(sample_shape) != 3:
        raise ConfigError(f"transform {name!r} is for images, and the samples are points: leave it out")


def check_p(name: str, p: float) -> None:
    """Raise a ConfigError if p of the transform called `name` is no probability."""
    if not 0 <= p <= 1:
        raise ConfigError(f"transforms.{name}.p is {p}: it must lie in [0, 1]")
