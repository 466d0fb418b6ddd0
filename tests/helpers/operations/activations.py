"""Activations, and dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from helpers.operations.entry import SHAPE, Case, Operation, dropout, normal, torch

if TYPE_CHECKING:
    from torch import Tensor

    from tinyddpm.ops import activation


class SiLU(Operation, name="silu"):
    """x of any shape, each element times its logistic function."""

    shapes = ({"shape": (1,)}, {"shape": (2, 3, 5, 1)})
    drawn = st.fixed_dictionaries({"shape": SHAPE})
    kernels = ("numba", "torch", "cupy")
    roundings = (1, 1, 0)

    @classmethod
    def case(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
        return Case(cls.name, {"x": 3 * rng.normal(size=shape)}, {})

    @staticmethod
    def by_torch(x: Tensor) -> Tensor:
        return torch.nn.functional.silu(x)


class GELU(Operation, name="gelu"):
    """x of any shape, each element times Φ of it, by Φ's tanh approximation."""

    shapes = ({"shape": (1,)}, {"shape": (2, 3, 5, 1)})
    drawn = st.fixed_dictionaries({"shape": SHAPE})
    kernels = ("numba", "torch", "cupy")
    roundings = (1, 1, 0)

    @classmethod
    def case(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
        return Case(cls.name, {"x": 2 * rng.normal(size=shape)}, {})

    @staticmethod
    def by_torch(x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(x, approximate="tanh")


class Dropout(Operation, name="dropout"):
    """x (N, ...), each element 0 with probability `rate`, else divided by 1 − rate; the masks are a sample's own."""

    shapes = (
        {"shape": (1, 3), "rate": 0.0},
        {"shape": (2, 3, 5, 4), "rate": 0.3},
        {"shape": (3, 7), "rate": 0.9},
    )
    drawn = st.fixed_dictionaries({"shape": SHAPE, "rate": st.floats(0, 0.95)})
    kernels = ("cupy",)
    roundings = (1, 1, 0)

    @classmethod
    def case(cls, rng: np.random.Generator, shape: tuple[int, ...], rate: float) -> Case:
        return Case(cls.name, normal(rng, x=shape), {"dropout": dropout(shape[0], rate, layer=1)})

    @staticmethod
    def by_torch(x: Tensor, dropout: activation.Dropout) -> Tensor:
        keep = torch.as_tensor(dropout.noise.keep(tuple(x.shape), dropout.rate, dropout.layer))
        return torch.where(keep, x / (1 - dropout.rate), 0.0)
