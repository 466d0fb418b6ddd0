"""What a transform is, the chance it is drawn by, and several of them one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tinyddpm import registry
from tinyddpm.backend import Array, Purpose, Random
from tinyddpm.backend.random import Samples, Step
from tinyddpm.errors import ConfigError

DRAWS = 256
"""Each transform has so many streams of random numbers."""

EDM_P = 0.12
"""How often EDM does each of its transforms with CIFAR-10 (2206.00364, appendix F.2)."""


class Chance:
    """The random numbers of one transform in one step of training, on the device.

    Each is a function of the seed, the step, the sample, the transform's place and the number of the draw: the same
    sample gets the same whatever the batch is cut into. `draw` tells a transform's own draws apart, from 0 to 255.

    Args:
        random: of the training's seed.
        step: the training step.
        samples: (N,) the slots of the batch.
        place: of the transform among those that a run does.
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
        """Return int64 (N, *shape), each in [0, high) as likely as any other."""
        return self._random.integers(Purpose.TRANSFORM, self._step, self._samples, shape, high, self._first + draw)


class Transform(Protocol):
    """What is done to samples before they are noised, to some of them at random.

    An entry of group `tinyddpm.transforms` is a callable `(sample_shape, **options) -> Transform`:

    - sample_shape: (H, W, C) of one image, or (D,) of one point;
    - options: keyword-only, all with defaults; ConfigError for a bad one, before anything is computed.

    It is written in the array API standard's terms and asks the device for nothing: it is recorded with the step.

    Attributes:
        numbers: k, how many numbers say what was done to a sample.
    """

    numbers: int

    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        """Return the samples, and what was done to each.

        Args:
            chance: what it draws by.
            x_0: (N, *sample_shape) float32, images in [−1, 1].

        Returns:
            x_0 of the same shape, type and range, and (N, k) float32 numbers of about unit size, which are all zero
            where a sample was left as it is.
        """
        ...


class Transforms:
    """Transforms one after the other, or none.

    Args:
        chosen: the options of each, by its registered name, in the order that they are done in.
        sample_shape: of one sample.

    Attributes:
        numbers: how many numbers say what all of them did to a sample.

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
        """Return the samples, and what was done to each, (N, numbers). For the arguments see `Chance`."""
        said = []
        samples, step = random.on_device(step, samples)  # once: no draw waits for them
        for place, transform in enumerate(self._each):
            x_0, told = transform(Chance(random, step, samples, place), x_0)
            said.append(told)
        return x_0, random.xp.concat(said, axis=1)


def check_image(name: str, sample_shape: tuple[int, ...]) -> None:
    """Raise a ConfigError if the samples of the transform called `name` are no images."""
    if len(sample_shape) != 3:
        raise ConfigError(f"transform {name!r} is for images, and the samples are points: leave it out")


def check_p(name: str, p: float) -> None:
    """Raise a ConfigError if the probability p of the transform called `name` is none."""
    if not 0 <= p <= 1:
        raise ConfigError(f"transforms.{name}.p is {p}: it must lie in [0, 1]")
