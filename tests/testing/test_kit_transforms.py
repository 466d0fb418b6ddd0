"""The kit for transforms passes what keeps the contract, and names what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinyddpm import registry
from tinyddpm.backend import Array
from tinyddpm.errors import ConfigError
from tinyddpm.testing import check_transform
from tinyddpm.transforms import Chance


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("p", [0.3, 1.0])
@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("transforms")])
def test_the_built_in_ones_keep_the_contract(name: str, p: float, channels: int) -> None:
    check_transform(name, (5, 7, channels), p=p)


class Dim:
    """Halves what is not black already."""

    numbers = 1

    def __init__(self, sample_shape: tuple[int, ...], *, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ConfigError("p is out of range")
        self.p = p

    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        done = chance.happens(0, self.p)
        y = chance.xp.where(done[(slice(None), *(None,) * (x_0.ndim - 1))], x_0 / 2, x_0)
        return y, chance.xp.astype(done, x_0.dtype)[:, None]


class Silent(Dim):
    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        y, told = super().__call__(chance, x_0)
        return y, 0 * told


class Writes(Dim):
    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        x_0 *= 0.5
        return super().__call__(chance, x_0)


class Wide(Dim):
    numbers = 2


class Bright(Dim):
    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        y, told = super().__call__(chance, x_0)
        return 3 * y, 1 + told


class Flat(Dim):
    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        y, told = super().__call__(chance, x_0)
        return chance.xp.reshape(y, (y.shape[0], -1)), told


class Booleans(Dim):
    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        return super().__call__(chance, x_0)[0], chance.happens(0, self.p)[:, None]


class ByChance(Dim):
    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        y, told = super().__call__(chance, x_0)
        return y, told * chance.xp.asarray(np.float32(np.random.default_rng().uniform(0.5, 1)))


class OfTheBatch(Dim):
    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        return 0.9 * (x_0 - chance.xp.mean(x_0)), 1 + super().__call__(chance, x_0)[1]


class ByNumbers(Dim):
    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        y, told = super().__call__(chance, x_0)
        chance.xp.nonzero(told)
        return y, told


class NotStandard(Dim):
    def __call__(self, chance: Chance, x_0: Array) -> tuple[Array, Array]:
        y, told = super().__call__(chance, x_0)
        return y.clip(-1, 1), told


class Positional(Dim):
    def __init__(self, sample_shape: tuple[int, ...], p: float = 0.5) -> None:
        super().__init__(sample_shape, p=p)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (Silent, "its numbers are all zero for a sample that it has changed"),
        (Writes, "fails on .*: ValueError: output array is read-only"),
        (Wide, r"its numbers have shape \(48, 1\), it must be \(48, 2\)"),
        (Bright, "a pixel becomes 2.9.* in size"),
        (Flat, r"its samples have shape \(48, 144\)"),
        (Booleans, "its numbers are bool, they must be float32"),
        (ByChance, "the same call gives other bits"),
        (OfTheBatch, "depends on the others of its batch"),
        (ByNumbers, "fails on .*: RuntimeError: .* data-dependent"),
        (NotStandard, "fails on .*: AttributeError"),
        (Positional, "option p is not keyword-only"),
    ],
)
def test_a_broken_transform_is_named(broken: Callable[..., Any], line: str) -> None:
    check_transform(Dim)
    check_transform(Dim, (2,), p=1.0)
    with pytest.raises(AssertionError, match=line):
        check_transform(broken)


def test_options_that_are_refused_or_change_nothing_are_named() -> None:
    with pytest.raises(AssertionError, match="p is out of range"):
        check_transform(Dim, p=2.0)
    with pytest.raises(AssertionError, match="nothing is done to any of 48 samples in 2 steps"):
        check_transform(Dim, p=0.0)
