"""Resampling, and joining along channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from helpers.operations.entry import FEW, LEADING, Case, Operation, normal, torch

if TYPE_CHECKING:
    from torch import Tensor


class Upsample(Operation, name="upsample"):
    """x (N, H, W, C), each pixel four times: y (N, 2 H, 2 W, C)."""

    shapes = ({"n": 1, "h": 1, "w": 1, "c": 1}, {"n": 2, "h": 3, "w": 5, "c": 4})
    drawn = st.fixed_dictionaries({"n": FEW, "h": FEW, "w": FEW, "c": FEW})
    kernels = ("cupy",)
    roundings = (0, 2, 0)  # two sums

    @classmethod
    def case(cls, rng: np.random.Generator, n: int, h: int, w: int, c: int) -> Case:
        return Case(cls.name, normal(rng, x=(n, h, w, c)), {})

    @staticmethod
    def by_torch(x: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(x.movedim(-1, 1), scale_factor=2, mode="nearest").movedim(1, -1)


class AveragePool(Operation, name="average_pool"):
    """x (N, 2 H, 2 W, C), the mean of each two by two pixels: y (N, H, W, C)."""

    shapes = ({"n": 1, "h": 1, "w": 1, "c": 1}, {"n": 2, "h": 3, "w": 5, "c": 4})
    drawn = st.fixed_dictionaries({"n": FEW, "h": FEW, "w": FEW, "c": FEW})
    kernels = ("cupy",)
    roundings = (2, 0, 0)  # two sums

    @classmethod
    def case(cls, rng: np.random.Generator, n: int, h: int, w: int, c: int) -> Case:
        return Case(cls.name, normal(rng, x=(n, 2 * h, 2 * w, c)), {})

    @staticmethod
    def by_torch(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x.movedim(-1, 1), 2).movedim(1, -1)


class Concat(Operation, name="concat"):
    """a (..., C_a) and b (..., C_b) beside each other: y (..., C_a + C_b)."""

    shapes = ({"leading": (1,), "c_a": 1, "c_b": 2}, {"leading": (2, 3, 5), "c_a": 4, "c_b": 1})
    drawn = st.fixed_dictionaries({"leading": LEADING, "c_a": FEW, "c_b": FEW})
    kernels = ("numba", "cupy")
    roundings = (0, 0, 0)

    @classmethod
    def case(cls, rng: np.random.Generator, leading: tuple[int, ...], c_a: int, c_b: int) -> Case:
        return Case(cls.name, normal(rng, a=(*leading, c_a), b=(*leading, c_b)), {})

    @staticmethod
    def by_torch(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], dim=-1)
