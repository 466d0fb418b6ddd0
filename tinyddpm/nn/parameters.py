"""Parameters: declared once by path, shape and initial law, and kept in one flat buffer with named views."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, Literal, TypeAlias
from zlib import crc32

import numpy as np

from tinyddpm.backend import Array, Purpose, Random
from tinyddpm.errors import ConfigError
from tinyddpm.ops.base import cut

Weights: TypeAlias = Mapping[str, Array]
"""Views of a flat buffer by parameter path."""

Gradients: TypeAlias = dict[str, Array]
"""Views of a gradient buffer by parameter path; `dw[path] += ...` adds in place."""


class ZeroGradients(dict[str, Array]):
    """Gradients that are zero at first. The first contribution to one can be written in place instead of added.

    Args:
        views: the gradients by path.
        join: waits for contributions that are still being written; called before such a gradient is read.
    """

    def __init__(self, views: Gradients, join: Callable[[], None] = lambda: None) -> None:
        super().__init__(views)
        self._zero, self._join = set(views), join

    def __getitem__(self, path: str) -> Array:
        if path not in self._zero:
            self._join()
        return super().__getitem__(path)

    def __setitem__(self, path: str, view: Array) -> None:
        self._zero.discard(path)
        super().__setitem__(path, view)

    def taken(self, paths: tuple[str, ...]) -> tuple[Array, ...] | None:
        """Return the views of these gradients, which the caller must overwrite; None if one is no longer zero."""
        if not self._zero.issuperset(paths):
            return None
        self._zero.difference_update(paths)
        return tuple(map(super().__getitem__, paths))


PATH = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*")


@dataclass(frozen=True)
class Init:
    """The law of a parameter's initial value.

    Attributes:
        law: "constant" at `value`; "uniform" on ±√(3 · value / fan), fan the mean of fan-in and fan-out (Glorot, Bengio
            2010, as DDPM uses it); "normal" with standard deviation `value`.
        value: see `law`.
    """

    law: Literal["constant", "uniform", "normal"]
    value: float


ZEROS = Init("constant", 0.0)
ONES = Init("constant", 1.0)


def fan_average(scale: float = 1.0) -> Init:
    """Return the uniform law of variance `scale` / fan-average: 1 in DDPM, 1e-10 for branches that start near zero."""
    return Init("uniform", scale)


@dataclass(frozen=True)
class Parameter:
    """One parameter: `path` is its name in checkpoints, such as `down_0/block_1/conv_1/w`."""

    path: str
    shape: tuple[int, ...]
    init: Init


class Parts:
    """Base of layers, blocks and networks: finds parameters and parts in attributes and their lists, in order."""

    @property
    def parameters(self) -> Sequence[Parameter]:
        """All parameters, of this part and of the parts in it, in the order in which the attributes were set."""
        return list(_walk(self))


def _walk(part: object) -> Iterator[Parameter]:
    """Yield the parameters in a part, or in a list of parts; nothing for any other object."""
    if isinstance(part, Parameter):
        yield part
    elif isinstance(part, Parts | list | tuple):
        for inner in vars(part).values() if isinstance(part, Parts) else part:
            yield from _walk(inner)


class Layout:
    """The places of a network's parameters in one flat buffer.

    Raises:
        ConfigError: a path is malformed, is used twice, or is a folder of another path.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.parameters = tuple(parameters)
        self.paths = paths = [parameter.path for parameter in self.parameters]
        self.shapes = [parameter.shape for parameter in self.parameters]
        folders = {path.rsplit("/", depth)[0] for path in paths for depth in range(1, path.count("/") + 1)}
        for path in paths:
            if not PATH.fullmatch(path):
                raise ConfigError(f"parameter path {path!r} is malformed: use lower-case names joined by '/'")
            if paths.count(path) > 1 or path in folders:
                raise ConfigError(f"parameter path {path!r} is used twice, or is also a folder: make it unique")
        ends = np.cumsum([prod(parameter.shape) for parameter in self.parameters], dtype=np.int64).tolist()
        self._spans = list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []
        self.spans = dict(zip(paths, self._spans, strict=True))
        """Beginning and end of each parameter in the flat buffer, by path and in order."""
        self.size: int = ends[-1] if ends else 0
        """The number of scalar parameters."""

    def views(self, buffer: Array, xp: Any) -> dict[str, Array]:
        """Return the parameters as views of `buffer`, a flat array of `size` elements of namespace `xp`."""
        return dict(zip(self.paths, cut(xp, buffer, self.shapes), strict=True))

    def initialise(self, seed: int) -> np.ndarray[Any, Any]:
        """Return a flat float32 host buffer with every parameter drawn from its law.

        A parameter's numbers depend on the seed and its path alone, so a new parameter changes no other.
        """
        import array_api_compat.numpy as xp  # here, not above: its import takes half as long as NumPy's

        random = Random(xp, seed)
        buffer = np.empty(self.size, np.float32)
        for parameter, (start, end) in zip(self.parameters, self._spans, strict=True):
            shape, law = parameter.shape, parameter.init.law
            if law == "constant":
                buffer[start:end] = parameter.init.value
                continue
            key = [crc32(parameter.path.encode())]
            if law == "normal":
                buffer[start:end] = random.normal(Purpose.INIT, 0, key, (end - start,))[0] * parameter.init.value
            else:
                *window, c_in, c_out = shape
                bound = sqrt(3 * parameter.init.value / (prod(window) * (c_in + c_out) / 2))
                buffer[start:end] = (2 * random.uniform(Purpose.INIT, 0, key, (end - start,))[0] - 1) * bound
        return buffer
