"""What features and metrics are: samples become rows of numbers, and sets of rows become a few numbers with names.

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
    """What features make of n samples, on the host.

    Attributes:
        features: float32 (n, D), finite.
        logits: float32 (n, K), those of a classifier of K classes; None without one.
    """

    features: NDArray[np.float32]
    logits: NDArray[np.float32] | None = None


class Features(Protocol):
    """A map of samples to rows of numbers in which distances mean something.

    The rows of a sample do not depend on the others, but for rounding. It cuts what it is given into batches by itself,
    as its memory asks. Grey images are repeated to three channels where a network wants colour.

    Attributes:
        description: one line, such as the network and its weights.
        resize: how images come to the size that is looked at, such as "bilinear to 224x224"; "none" if they stay.
    """

    description: str
    resize: str

    def __call__(self, samples: NDArray[Any]) -> Seen:
        """Return the features of uint8 images (n, H, W, C), or of float32 points (n, D).

        Raises:
            DataError: it cannot see such samples.
        """
        ...


@dataclass(frozen=True, eq=False)
class Keeping:
    """What several metrics need of the same samples, computed once."""

    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def kept(self, key: str, compute: Callable[[], Kept]) -> Kept:
        """Return what `compute` returns, computed for the first metric that asks for it under this key."""
        if key not in self._kept:
            self._kept[key] = compute()
        found: Kept = self._kept[key]
        return found


@dataclass(frozen=True, eq=False)
class Part(Keeping):
    """One set of samples, as metrics know it.

    Attributes:
        features: (n, D), see `Seen`.
        logits: (n, K), or None.
        labels: (n,) the class of each; for drawn ones, the class asked for. None without classes.
        words: the caption of each; for drawn ones, the one asked for. None without captions.
    """

    features: Rows
    logits: Rows | None = None
    labels: NDArray[np.int64] | None = None
    words: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class Sets(Keeping):
    """What a metric compares: features of one kind.

    Attributes:
        drawn: samples of the model. For a metric's floor they are real ones, with what they are as what is asked for.
        real: samples that the model was not trained on, none of them among those drawn.
        training: what it was trained on; None for a metric that does not say that it needs them.

    Raises:
        DataError: a part has fewer than two samples, or features of another width.
    """

    drawn: Part
    real: Part
    training: Part | None = None

    def __post_init__(self) -> None:
        shapes = [part.features.shape for part in (self.drawn, self.real, self.training) if part is not None]
        if min(n for n, _ in shapes) < 2 or len({width for _, width in shapes}) > 1:
            raise DataError(f"no comparison of features of shapes {shapes}: give two rows or more of one length")


Metric: TypeAlias = Callable[..., Numbers]
"""`(sets, **options) -> {name: number}`. No name belongs to two metrics. What cannot be measured of these sets, as the
share of the right class where there are no classes, is left out.

Its attribute `needs`, which `needing` sets, names the parts of `Sets` that it looks at beside `drawn` and `real`.
"""

Function = TypeVar("Function", bound=Metric)


def needing(*parts: str) -> Callable[[Function], Function]:
    """Return a decorator for a metric that looks at these parts of `Sets` too: "training"."""

    def mark(metric: Function) -> Function:
        metric.needs = parts  # type: ignore[attr-defined]
        return metric

    return mark


def needs(name: str) -> Collection[str]:
    """Return what the metric registered as `name` looks at beside drawn and real samples.

    Raises:
        RegistryError: there is no such metric, or its plugin is broken.
    """
    found: Collection[str] = getattr(registry.load("metrics", name), "needs", ())
    return found


def make_features(name: str, backend: Backend, **options: Any) -> Features:
    """Return the features registered as `name`.

    Raises:
        RegistryError: no such features, or their plugin is broken.
        ConfigError: an option is unknown or wrong.
    """
    features: Features = registry.build("features", name, (backend,), options)
    return features


def measure(name: str, sets: Sets, **options: Any) -> Numbers:
    """Return what the metric registered as `name` says of `sets`.

    Raises:
        RegistryError: no such metric, or its plugin is broken.
        ConfigError: an option is unknown or wrong.
    """
    numbers: Numbers = registry.build("metrics", name, (sets,), options)
    return numbers


def require_images(samples: NDArray[Any], what: str) -> None:
    """Refuse samples that are no images, on behalf of features called `what`.

    Raises:
        DataError: they are not uint8 (n, H, W, C).
    """
    if samples.ndim != 4 or samples.dtype != np.uint8:
        raise DataError(
            f"features {what!r} are of uint8 images, and these are {samples.dtype} of shape {samples.shape}: "
            "take others, such as coordinates for points"
        )
