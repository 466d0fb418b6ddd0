"""The protocols: features map samples to rows of numbers, metrics map sets of rows to a few named numbers.

An entry of group `tinyddpm.features` is a callable `(backend, **options) -> Features`. An entry of group
`tinyddpm.metrics` is a callable `(sets, **options) -> {name: number}`. Options are keyword-only, all with defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyddpm import registry
from tinyddpm.backend import Backend
from tinyddpm.errors import DataError

Rows: TypeAlias = NDArray[np.floating[Any]]
"""Features, (n, D)."""
Numbers: TypeAlias = Mapping[str, float]
Kept = TypeVar("Kept")


class Seen(NamedTuple):
    """The features of n samples, on the host.

    Attributes:
        features: float32 (n, D), finite.
        logits: float32 (n, K), the logits of a classifier with K classes; None if the features have no classifier.
    """

    features: NDArray[np.float32]
    logits: NDArray[np.float32] | None = None


class Features(Protocol):
    """A map from samples to rows of numbers whose distances are meaningful.

    The row of a sample does not depend on the other samples, up to rounding. The map splits its input into batches that
    fit its memory. Networks for colour images repeat grey images to three channels.

    Attributes:
        description: one line, such as the network and its weights.
        resize: how images are resized for the network, such as "bilinear to 224x224"; "none" if they are not.
    """

    description: str
    resize: str

    def __call__(self, samples: NDArray[Any]) -> Seen:
        """Return the features of uint8 images (n, H, W, C), or of float32 points (n, D).

        Raises:
            DataError: these features are not defined for such samples.
        """
        ...


@dataclass(frozen=True, eq=False)
class Keeping:
    """A cache of intermediate results that several metrics share, such as nearest neighbours."""

    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def kept(self, key: str, compute: Callable[[], Kept]) -> Kept:
        """Return the result of `compute`, which is called only the first time that the key is asked for."""
        if key not in self._kept:
            self._kept[key] = compute()
        found: Kept = self._kept[key]
        return found


@dataclass(frozen=True, eq=False)
class Part(Keeping):
    """A set of n samples as metrics receive it.

    Attributes:
        features: (n, D).
        logits: (n, K), or None if the features have no classifier.
        labels: (n,), the class of each sample; of drawn samples, the class asked for. None without classes.
        words: n captions; of drawn samples, the captions asked for. None without captions.
    """

    features: Rows
    logits: Rows | None = None
    labels: NDArray[np.int64] | None = None
    words: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class Sets(Keeping):
    """The sets of samples that a metric compares, all with the same features.

    Attributes:
        drawn: samples drawn from the model; for a metric's floor, real samples that are not in `real`.
        real: samples that the model was not trained on.
        training: the samples that the model was trained on; None unless a metric needs them.

    Raises:
        DataError: a set has fewer than two samples, or the features differ in width.
    """

    drawn: Part
    real: Part
    training: Part | None = None

    def __post_init__(self) -> None:
        shapes = [part.features.shape for part in (self.drawn, self.real, self.training) if part is not None]
        if min(n for n, _ in shapes) < 2 or len({width for _, width in shapes}) > 1:
            raise DataError(f"cannot compare features of shapes {shapes}: give two or more rows of equal length")


Metric: TypeAlias = Callable[..., Numbers]
"""`(sets, **options) -> {name: number}`. No two metrics share a name. A number that is undefined for these sets, such
as the share of right classes where there are no classes, is omitted.

The attribute `needs`, set by `needing`, names the fields of `Sets` that the metric reads besides `drawn` and `real`.
"""

Function = TypeVar("Function", bound=Metric)


def needing(*parts: str) -> Callable[[Function], Function]:
    """Return a decorator that declares which other fields of `Sets` a metric needs: "training"."""

    def mark(metric: Function) -> Function:
        metric.needs = parts  # type: ignore[attr-defined]
        return metric

    return mark


def needs(name: str) -> Collection[str]:
    """Return the fields of `Sets` that the metric registered as `name` needs besides `drawn` and `real`.

    Raises:
        RegistryError: there is no such metric, or its plugin is broken.
    """
    found: Collection[str] = getattr(registry.load("metrics", name), "needs", ())
    return found


def make_features(name: str, backend: Backend, **options: Any) -> Features:
    """Return the features registered as `name`.

    Raises:
        RegistryError: there are no such features, or their plugin is broken.
        ConfigError: an option is unknown or invalid.
    """
    features: Features = registry.build("features", name, (backend,), options)
    return features


def measure(name: str, sets: Sets, **options: Any) -> Numbers:
    """Return the numbers that the metric registered as `name` computes from `sets`.

    Raises:
        RegistryError: there is no such metric, or its plugin is broken.
        ConfigError: an option is unknown or invalid.
    """
    numbers: Numbers = registry.build("metrics", name, (sets,), options)
    registry.require("metrics", name, numbers, ("items",))
    return numbers


def require_images(samples: NDArray[Any], what: str) -> None:
    """Raise DataError unless samples are uint8 images (n, H, W, C). `what` is the name of the features."""
    if samples.ndim != 4 or samples.dtype != np.uint8:
        raise DataError(
            f"features {what!r} need uint8 images, not {samples.dtype} of shape {samples.shape}: "
            "choose others, such as coordinates for points"
        )
